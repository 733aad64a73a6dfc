"""Trains, samples, encodes and compares with the reference, all tiny: does this stack work at all?

    python launch/smoke.py

Run by launch/test.sh with every other Python that it finds. What it needs of the checkout is the
golden files of the tests; what it makes is in a temporary folder. Exit status 1: something failed.
"""

import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ["a red square moves up on navy", "it moves left on black"]
PARITY = ("schedulers.npz", "transformer/fwd_2b_n2short.npz")


def train(folder: Path) -> None:
    """A run of 5 steps, in folder/run."""
    from m2dit_jax import train
    from m2dit_jax.tools.gpu_check.sizes import TINY

    fields = {**TINY.base_fields, "train.steps": 5, "train.log_every": 5}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    status = train.main([f"--config={ROOT}/configs/base.py", *flags, f"--workdir={folder}/run"])
    _check(status == 0, f"train ended with status {status}")
    losses = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    _check(losses[-1]["step"] == 5, f"metrics.jsonl ends with {losses[-1]}")


def sample(folder: Path) -> None:
    """A story of the run above, read back from its videos."""
    from m2dit_jax import sample
    from m2dit_jax.utils.media import read_clip

    storyboard, output = folder / "story.json", folder / "out"
    storyboard.write_text(json.dumps({"scenes": [{"prompt": prompt} for prompt in PROMPTS]}))
    status = sample.main(
        [f"--checkpoint={folder}/run", f"--storyboard={storyboard}", f"--output={output}"]
    )
    _check(status == 0, f"sample ended with status {status}")
    videos = sorted(output.glob("scene*.mp4"))
    _check(len(videos) == len(PROMPTS), f"sample wrote {sorted(output.iterdir())}")
    for video in videos:
        read_clip(video, 2, 8, 8)


def encode(folder: Path) -> None:
    """One clip, made here, to a dataset of pixels."""
    import numpy as np

    from m2dit_jax import encode
    from m2dit_jax.data.encoded import EncodedDataset
    from m2dit_jax.utils.media import write_mp4

    brightness = np.arange(0, 240, 10, dtype=np.uint8)
    write_mp4(
        folder / "clip.mp4", np.broadcast_to(brightness[:, None, None, None], (24, 64, 96, 3)), 8
    )
    story = {"name": "one", "scenes": [{"video": "clip.mp4", "caption": "it becomes light"}]}
    (folder / "manifest.jsonl").write_text(json.dumps(story) + "\n")
    status = encode.main(
        [
            *(f"--manifest={folder}/manifest.jsonl", f"--output={folder}/set"),
            *("--codec=pixels", "--frames=5", "--height=16", "--width=24", "--workers=1"),
        ]
    )
    _check(status == 0, f"encode ended with status {status}")
    scenes = EncodedDataset(folder / "set")
    _check(len(scenes) == 1, f"the dataset has {len(scenes)} stories, not 1")


def parity(folder: Path) -> None:
    """A schedule and a forward pass of the transformer, against those of the PyTorch reference."""
    from m2dit_jax import parity

    for file in PARITY:
        status = parity.main([f"--reference={ROOT}/tests/golden", f"--only={file}"])
        _check(status == 0, f"parity of {file} ended with status {status}")


def main() -> int:
    """Runs all parts, each after the failure of another too."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "numpy", "av"))
    print(f"Python {platform.python_version()}, {packages}", flush=True)
    failed = []
    parts: tuple[Callable[[Path], None], ...] = (train, sample, encode, parity)
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            started = time.perf_counter()
            try:
                part(Path(folder))
            except Exception:
                traceback.print_exc()
                failed.append(part.__name__)
            print(f"smoke: {part.__name__}, {time.perf_counter() - started:.0f} s", flush=True)
    if failed:
        print(f"smoke FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise RuntimeError(otherwise)


if __name__ == "__main__":  # the workers of `encode` import this file
    # Compiling is most of the time: quickly, not well.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(ROOT))  # for an environment that the package is not installed in
    sys.exit(main())
