from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from m2dit_jax.data.story_order import (
    ClipOrder,
    MixtureOrder,
    StoryOrder,
    draw_held_out,
    scenes_in_order,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_every_clip_once_an_epoch_and_never_twice_in_a_sample(clips, scenes, seed):
    assume(clips >= scenes)
    order = ClipOrder([(i, 0) for i in range(clips)], scenes, (seed,))
    samples = [order.sample(i) for i in range(4 * clips)]
    assert all(len(set(sample)) == scenes for sample in samples)
    stream = [scene for sample in samples for scene in sample]
    for start in range(0, len(stream) - clips + 1, clips):
        assert len(set(stream[start : start + clips])) == clips
    again = ClipOrder([(i, 0) for i in range(clips)], scenes, (seed,))
    assert again.sample(3 * clips) == samples[3 * clips]  # from anywhere
    assert again.sample(0) == samples[0]  # and back


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 3))
def test_samples_of_stories_are_consecutive_and_do_not_overlap_in_an_epoch(counts, scenes, seed):
    assume(max(counts) >= scenes)
    order = StoryOrder(counts, scenes, (seed,))
    per_epoch = int(order.samples_per_epoch)
    assert per_epoch == sum(n // scenes for n in counts)
    assert order.too_short == sum(n < scenes for n in counts)
    for epoch in range(3):
        samples = [order.sample(epoch * per_epoch + i) for i in range(per_epoch)]
        for sample in samples:
            (story, first), *_ = sample
            assert sample == [(story, first + i) for i in range(scenes)]
            assert first + scenes <= counts[story]
        everything = [scene for sample in samples for scene in sample]
        assert len(set(everything)) == len(everything)


def test_threads_get_the_same_clips():
    clips = [(i, 0) for i in range(1000)]
    expected = [ClipOrder(clips, 3, (0,)).sample(i) for i in range(0, 1400, 100)]
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            samples = list(threads.map(ClipOrder(clips, 3, (0,)).sample, range(1400)))
        assert samples[::100] == expected


def test_epochs_and_seeds_differ():
    def epoch(seed, number):
        order = StoryOrder([7] * 20, 3, (seed,))
        return [order.sample(40 * number + i) for i in range(40)]

    assert epoch(0, 0) != epoch(0, 1) != epoch(1, 1)
    assert epoch(0, 1) == epoch(0, 1)


def test_too_few_scenes_are_refused():
    with pytest.raises(ValueError, match="2 clips are too few for samples of 3"):
        ClipOrder([(0, 0), (1, 0)], 3, (0,))
    with pytest.raises(
        ValueError, match="no story has the 3 scenes of a sample; the longest has 2"
    ):
        StoryOrder([1, 2], 3, (0,))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=4))
def test_a_mixture_keeps_its_shares_and_counts_its_batches(weights):
    order = MixtureOrder(weights)
    batches = [order.dataset(batch) for batch in range(1000)]
    counts = Counter(dataset for dataset, _ in batches)
    for dataset, share in enumerate(np.asarray(weights) / sum(weights) * 1000):
        assert abs(counts[dataset] - share) <= len(weights)
        assert [n for d, n in batches if d == dataset] == list(range(counts[dataset]))
        if counts[dataset]:
            assert order.dataset(order.first_batch(dataset)) == (dataset, 0)


def test_a_mixture_by_hand():
    order = MixtureOrder([1.0, 2.0, 1.0])
    assert [order.dataset(batch)[0] for batch in range(8)] == [1, 0, 2, 1, 1, 0, 2, 1]
    rare = MixtureOrder([100.0, 250_000.0])
    assert rare.dataset(rare.first_batch(0)) == (0, 0)


@pytest.mark.parametrize("weights", [(), (0.0, 1.0), (1.0, float("nan"))])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match="weights of datasets"):
        MixtureOrder(weights)


def test_a_share_is_held_out_by_the_seed():
    held_out = draw_held_out(40, 0.1, (0, 1))
    assert len(held_out) == 4 and held_out <= set(range(40))
    assert draw_held_out(40, 0.1, (0, 1)) == held_out != draw_held_out(40, 0.1, (1, 1))
    assert len(draw_held_out(40, 0.001, (0,))) == 1
    assert draw_held_out(40, 0.0, (0,)) == frozenset()
    with pytest.raises(ValueError, match="a share of 0.5 of 1 stories leaves none to train on"):
        draw_held_out(1, 0.5, (0,))


def test_stories_that_are_read_once_give_their_first_scenes_or_clips_put_together():
    counts = [3, 1, 2, 4]
    assert scenes_in_order(counts, [0, 1, 3], 2, clips=False) == [
        [(0, 0), (0, 1)],
        [(3, 0), (3, 1)],
    ]
    assert scenes_in_order(counts, [0, 1, 2], 4, clips=True) == [[(0, 0), (0, 1), (0, 2), (1, 0)]]
