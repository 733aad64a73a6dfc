"""From random-access stories to batches: a grain pipeline whose position can be saved."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

from m2dit_jax.data.shapes import ShapesSource, Story

Tokenize = Callable[[Sequence[str]], Int[np.ndarray, "N T"]]


class Batch(NamedTuple):
    """Pixels and prompts of B stories."""

    video: UInt8[Array | np.ndarray, "B S F H W 3"]
    token_ids: Int[Array | np.ndarray, "B S T"]


def make_loader(source: ShapesSource, tokenize: Tokenize, batch_size: int) -> grain.DatasetIterator:
    """Endless batches of stories, in the order of the source; each process gets its own share.

    What is left at the end of the source and is no whole batch is left out.
    `get_state` and `set_state` of the iterator save and restore its position exactly.
    Raises ValueError if the batch does not divide over the processes.
    """
    processes = jax.process_count()
    if batch_size % processes:
        raise ValueError(f"a batch of {batch_size} stories does not divide over {processes} hosts")
    # A shapes caption occurs many times; tokenizing is as slow as drawing the scene.
    tokenize_one = lru_cache(maxsize=10_000)(lambda caption: tokenize([caption])[0])

    def to_arrays(story: Story) -> Batch:
        return Batch(story["video"], np.stack([tokenize_one(c) for c in story["captions"]]))

    dataset = grain.MapDataset.source(source)[jax.process_index() :: processes].map(to_arrays)
    # One thread and a few batches ahead: the training step wants the cores.
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(
        dataset.batch(batch_size // processes, drop_remainder=True).repeat().to_iter_dataset(read)
    )
