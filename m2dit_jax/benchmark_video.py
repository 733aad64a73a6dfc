"""How fast a video is decoded: m2dit benchmark_video --video=FILE"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av

from m2dit_jax.cli import count, frame_count, make_parser, run_command, side
from m2dit_jax.data.video import longest_stride_frames, probe_video, read_frames


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    flags = _parser().parse_args(argv)
    return run_command(lambda: _benchmark(flags))


def _benchmark(flags: argparse.Namespace) -> None:
    figures = decoding(flags.video, flags.frames, flags.height, flags.width, flags.repeats)
    print(json.dumps(figures, indent=1))


def decoding(
    video: Path, wanted: int, height: int, width: int, repeats: int = 5
) -> dict[str, float]:
    """Frames per second of one core: `read_frames`, and plain decoding of the same frames.

    Plain is what PyAV needs to decode from the first frame to the last one wanted, with no change
    of colours or size: the limit of what can be reached. `share_of_plain` is the median over
    `repeats` of the ratio within a pair of runs, since machines are noisy.
    """
    numbers = longest_stride_frames(probe_video(video).frames, wanted, 3, 0.0)

    def decode_plain() -> None:
        with av.open(str(video)) as container:
            container.streams.video[0].thread_type = "NONE"
            for number, _ in enumerate(container.decode(video=0)):
                if number == numbers[-1]:
                    return

    pairs = [
        (_seconds(decode_plain), _seconds(lambda: read_frames(video, numbers, height, width)))
        for _ in range(repeats)
    ]
    decoded = numbers[-1] + 1
    return {
        "frames_decoded": decoded,
        "frames_kept": wanted,
        "plain_frames_per_second": decoded / statistics.median(plain for plain, _ in pairs),
        "frames_per_second": decoded / statistics.median(ours for _, ours in pairs),
        "share_of_plain": statistics.median(plain / ours for plain, ours in pairs),
    }


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "benchmark_video",
        "Times decoding and resizing on one core, next to plain decoding.",
        "--video=fox.mp4 --height=480 --width=720",
    )
    parser.add_argument("--video", type=Path, required=True, help="file to decode")
    for name, kind, default, text in (
        ("frames", frame_count, 49, "that are kept"),
        ("height", side, 480, "in pixels"),
        ("width", side, 720, "in pixels"),
        ("repeats", count, 5, "pairs of runs"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=f"{text} (default: %(default)s)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
