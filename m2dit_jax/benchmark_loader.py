"""How fast one process reads training batches from an encoded dataset.

python -m m2dit_jax.benchmark_loader --dataset=DIR --batch_size=8 --batches=20
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.data.loader import EncodedSamples, StallTimer, make_loader


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as JSON; the exit status is 2, after a message, for wrong input."""
    flags = _parser().parse_args(argv)
    try:
        figures = measure(
            EncodedDataset(flags.dataset),
            flags.scenes,
            flags.batch_size,
            flags.batches,
            flags.threads,
            flags.step_seconds,
        )
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1))
    return 0


def measure(
    dataset: EncodedDataset,
    scenes: int,
    batch_size: int,
    batches: int,
    threads: int,
    step_seconds: float,
) -> dict[str, Any]:
    """Reads one batch to warm up and then `batches`, `step_seconds` of idling after each.

    The idling stands for a training step that computes on devices. What was read shortly before
    comes from the page cache: only a dataset larger than the memory also measures its disk.
    Captions are not tokenized. Raises ValueError for numbers that cannot be and for a damaged
    dataset.
    """
    numbers = {"batch_size": batch_size, "batches": batches, "scenes": scenes, "threads": threads}
    wrong = {name: value for name, value in numbers.items() if value < 1}
    if wrong or not 0 <= step_seconds < float("inf"):
        raise ValueError(f"needs numbers of 1 or more, found {numbers} {step_seconds=}")
    tokenize = _no_tokens if dataset.info.codec == "pixels" else None
    samples = EncodedSamples([dataset], scenes, batch_size, seed=0, tokenize=tokenize)
    # One host: all rows of a batch are read here.
    loader = StallTimer(make_loader(samples, range(batch_size), threads=threads))
    next(loader)
    time.sleep(step_seconds)  # the first step, during which reading gets ahead
    loader.share()
    begun, cpu = time.perf_counter(), time.process_time()
    nbytes = 0
    for batch in islice(loader, batches):
        nbytes += sum(np.asarray(array).nbytes for array in batch)
        time.sleep(step_seconds)
    waiting = loader.share()
    seconds = time.perf_counter() - begun
    read = batches * batch_size
    return {
        **numbers,
        "step_seconds": step_seconds,
        "seconds": seconds,
        "sample_bytes": nbytes // read,
        "samples_per_second": read / seconds,
        "bytes_per_second": nbytes / seconds,
        "cpu_seconds_per_sample": (time.process_time() - cpu) / read,
        "waiting_share": waiting,
    }


def _no_tokens(captions: Sequence[str]) -> Int[np.ndarray, "N 1"]:
    return np.zeros((len(captions), 1), np.int32)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m2dit benchmark_loader",
        description="Measures how fast one process reads training batches.",
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", type=Path, required=True, help="what encode wrote")
    parser.add_argument("--scenes", type=int, default=3, help="of a sample; default: 3")
    parser.add_argument("--batch_size", type=int, default=8, help="of this host; default: 8")
    parser.add_argument("--batches", type=int, default=20, help="default: 20")
    parser.add_argument("--threads", type=int, default=1, help="that read; default: 1")
    parser.add_argument(
        "--step_seconds", type=float, default=0.0, help="idling after each batch; default: 0"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
