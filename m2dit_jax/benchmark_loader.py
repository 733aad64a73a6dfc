"""How fast one process reads training batches from an encoded dataset.

m2dit benchmark_loader --dataset=DIR --batch_size=8 --batches=20
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int

from m2dit_jax.cli import bounded_float, count, filled, make_parser, run_command
from m2dit_jax.data.encoded import EncodedDataset, dataset_folders
from m2dit_jax.data.loader import EncodedSamples, StallTimer, make_loader


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, as `run_command` says."""
    flags = _parser().parse_args(argv)
    return run_command(lambda: _benchmark(flags))


def _benchmark(flags: argparse.Namespace) -> None:
    figures = measure(
        EncodedDataset(dataset_folders(flags.dataset)[0]),
        flags.scenes,
        flags.batch_size,
        flags.batches,
        flags.threads,
        flags.step_seconds,
        flags.ahead,
    )
    print(json.dumps(figures, indent=1))


def measure(
    dataset: EncodedDataset,
    scenes: int,
    batch_size: int,
    batches: int,
    threads: int,
    step_seconds: float,
    ahead: int = 4,
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
    loader = StallTimer(make_loader(samples, range(batch_size), 0, threads, ahead))
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
    parser = make_parser(
        "benchmark_loader",
        "Measures how fast one process reads training batches.",
        "--dataset=data/fox --batch_size=8 --batches=20",
    )
    numbers = parser.add_argument_group("what is read")
    numbers.add_argument("--dataset", type=filled, required=True, help="what encode wrote")
    for name, default, text in (
        ("scenes", 3, "of a sample"),
        ("batch_size", 8, "samples of a batch on this host"),
        ("batches", 20, "that count"),
        ("threads", 1, "that read; a training takes 16 where a bucket is read"),
        ("ahead", 4, "batches that are read ahead; a training takes 16 where a bucket is read"),
    ):
        numbers.add_argument(
            f"--{name}", type=count, default=default, help=f"{text} (default: %(default)s)"
        )
    numbers.add_argument(
        "--step_seconds",
        type=bounded_float(0, 3600),
        default=0.0,
        help="idling after each batch (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
