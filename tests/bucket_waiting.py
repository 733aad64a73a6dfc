"""Share of waiting of a training that reads from a bucket, by the latency of each request.

python -m tests.bucket_waiting --megabytes=2 --step_seconds=0.5

A server of S3 on this machine, behind a proxy that keeps each request for a while. Prints a table.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from m2dit_jax.benchmark_loader import measure
from m2dit_jax.data.encoded import EncodedDataset, EncodedInfo, dataset_folders, shard_name
from m2dit_jax.data.encoded_writing import finish_dataset, write_shard
from m2dit_jax.utils.remote import cache, places
from m2dit_jax.utils.remote.bucket import Bucket
from tests.buckets import BUCKET, delayed, s3_server
from tests.data.test_encoded import make_story

LATENCIES = (0.0, 0.01, 0.05, 0.2)  # seconds
THREADS = AHEAD = 16  # as in `m2dit_jax.training.data`


def write_dataset(folder: Path, megabytes: float, stories: int, shards: int) -> None:
    """Random pixels, which do not become smaller, of stories of one scene."""
    side = max(int((megabytes * 1e6 / 3) ** 0.5), 1)
    info = EncodedInfo("pixels", "clips", 1, side, side)
    each = [range(n, stories, shards) for n in range(shards)]
    made = [
        write_shard(folder / shard_name(n, shards), info, (make_story(info, i, 1) for i in part))
        for n, part in enumerate(each)
    ]
    statistics = {"size": {}, "fps": {}, "seconds": {}, "words": {}}
    skipped = {"items": [], "cut_captions": 0}
    finish_dataset(folder, info, {}, made, [1] * stories, statistics, skipped)


def main() -> None:
    """Prints a line for each latency."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("megabytes", 2.0), ("step_seconds", 0.5)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in (("stories", 40), ("shards", 4), ("batches", 20), ("batch_size", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, s3_server() as environment:
        os.environ.update(environment)
        data = Path(scratch, "data")
        data.mkdir()
        write_dataset(data, flags.megabytes, flags.stories, flags.shards)
        bucket = Bucket(f"s3://{BUCKET}/data")
        for path in data.iterdir():
            bucket.upload(path, path.name)
        server = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
        print("| latency | MB of a sample | samples/s | waiting |", "|---|---|---|---|", sep="\n")
        for latency in LATENCIES:
            with delayed(server, latency) as port:
                os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
                os.environ[cache.CACHE] = f"{scratch}/{latency}"
                places._opened.clear()
                dataset = EncodedDataset(dataset_folders(bucket.url)[0])
                numbers = flags.batch_size, flags.batches, THREADS, flags.step_seconds, AHEAD
                found = measure(dataset, 1, *numbers)
            size = np.round(found["sample_bytes"] / 1e6, 1)
            speed = f"{found['samples_per_second']:.2f} | {found['waiting_share']:.1%}"
            print(f"| {1000 * latency:.0f} ms | {size} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
