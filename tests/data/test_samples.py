"""Batches of encoded datasets, held in memory."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.data.encoded import EncodedDataset, EncodedInfo
from m2dit_jax.data.loader import EncodedSamples, make_loader


class FakeDataset(EncodedDataset):
    """Every value of a scene says which one it is: 10 x story + scene."""

    def __init__(self, info, scene_counts):
        self.path, self.info, self.scene_counts = Path("fake"), info, scene_counts

    def __getitem__(self, index) -> Any:
        numbers = 10 * index + np.arange(self.scene_counts[index])
        story = {"name": str(index), "captions": [str(n) for n in numbers]}
        for name, (shape, dtype) in self.info.arrays.items():
            values = np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (len(numbers), *shape))
            story[name] = values.astype(dtype)
        return story


def tokenize(captions):
    return np.array([[int(caption)] for caption in captions], np.int32)


def pixels(kind, counts):
    return FakeDataset(EncodedInfo("pixels", kind, 2, 4, 6), counts)


def take(samples, rows, batches, first_batch=0):
    """The numbers of the scenes of these rows of each batch."""
    loader = make_loader(samples, rows, first_batch)
    return [batch.token_ids[..., 0].tolist() for batch in islice(loader, batches)]


def make_samples(batch_size, seed=0):
    datasets = [pixels("stories", (3, 1, 7, 4)), pixels("clips", (1,) * 5)]
    return EncodedSamples(datasets, 2, batch_size, seed, (3.0, 1.0), tokenize)


def test_pixels_come_with_their_captions():
    batch = next(make_loader(make_samples(4), range(4)))
    assert batch.video.shape == (4, 2, 2, 4, 6, 3) and batch.video.dtype == np.uint8
    np.testing.assert_array_equal(batch.video[..., 0, 0, 0, 0], batch.token_ids[..., 0])


def test_latents_come_with_their_embeddings():
    info = EncodedInfo("vae", "stories", 9, 16, 24, (3, 2, 3, 4), (5, 6), 0.7)
    samples = EncodedSamples([FakeDataset(info, (2, 3))], 2, 3, seed=0)
    batch = next(make_loader(samples, range(3)))
    assert batch.mean.shape == batch.logvar.shape == (3, 2, 3, 2, 3, 4)
    assert (
        batch.text_embeds.shape == (3, 2, 5, 6)
        and batch.text_embeds.dtype == info.arrays["mean"][1]
    )
    numbers = batch.mean[..., 0, 0, 0, 0]
    np.testing.assert_array_equal(batch.text_embeds[..., 0, 0], numbers)
    np.testing.assert_array_equal(numbers[:, 1], numbers[:, 0] + 1)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2, 3, 6]), st.integers(0, 9), st.integers(0, 3))
def test_hosts_and_resumed_runs_read_what_one_run_reads(hosts, first, seed):
    whole = take(make_samples(6, seed), range(6), 14)
    rows = np.split(np.arange(6), hosts)
    shares = [take(make_samples(6, seed), mine.tolist(), 4, first) for mine in rows]
    assert [sum(rows, []) for rows in zip(*shares, strict=True)] == whole[first : first + 4]


def test_datasets_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="fake: no story has the 3 scenes"):
        EncodedSamples([pixels("stories", (1, 2))], 3, 1, seed=0)
    with pytest.raises(ValueError, match="2 weights for 1 datasets"):
        EncodedSamples([pixels("clips", (1, 2))], 3, 1, 0, (1.0, 1.0))
