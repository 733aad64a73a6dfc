"""Which scenes make up which sample, as a function of seed and number alone.

So a position in the data is just the number of a batch: nothing else has to be saved to go on
exactly, on however many hosts.
"""

import math
import threading
from collections.abc import Sequence
from itertools import count

import numpy as np
from jaxtyping import Int

Scene = tuple[int, int]
"""Numbers of a story and of a scene in it."""


class ClipOrder:
    """Samples of scenes that have nothing to do with each other (stage 1 of the paper).

    The clips follow one another, each once an epoch in an order of its own, and every sample takes
    the next ones; no sample has a clip twice. Raises ValueError if there are too few for that.
    """

    def __init__(self, clips: Sequence[Scene], scenes: int, seed: Sequence[int]):
        if len(clips) < scenes:
            raise ValueError(f"{len(clips)} clips are too few for samples of {scenes}")
        self.clips = list(clips)
        self.scenes = scenes
        self.seed = seed
        self._lock = threading.Lock()
        self._epoch, self._orders = -1, {}

    @property
    def samples_per_epoch(self) -> float:
        """Not always a whole number: a sample can have clips of two epochs."""
        return len(self.clips) / self.scenes

    def sample(self, number: int) -> list[Scene]:
        """The scenes of a sample."""
        first = number * self.scenes
        return [self._clip(place) for place in range(first, first + self.scenes)]

    def _clip(self, place: int) -> Scene:
        epoch, index = divmod(place, len(self.clips))
        return self.clips[self._order(epoch)[index]]

    def _order(self, epoch: int) -> Int[np.ndarray, " clips"]:
        """An epoch's order. It depends on the one before, so they are made one after another."""
        with self._lock:
            if epoch not in self._orders and epoch < self._epoch:
                self._epoch, self._orders = -1, {}
            while self._epoch < epoch:
                last = self._orders.get(self._epoch)
                self._epoch += 1
                order = np.random.default_rng([*self.seed, self._epoch]).permutation(
                    len(self.clips)
                )
                # Clips of a sample that the epoch before has begun.
                begun = self._epoch * len(self.clips) % self.scenes
                if last is not None and begun:
                    order = _others_first(order, last[-begun:], self.scenes - begun)
                # Two epochs can be in one batch; threads ask for them in any order.
                self._orders = {k: v for k, v in self._orders.items() if k > self._epoch - 3}
                self._orders[self._epoch] = order
            return self._orders[epoch]


def _others_first(
    order: Int[np.ndarray, " N"], taken: Int[np.ndarray, " k"], count: int
) -> Int[np.ndarray, " N"]:
    """The order with its first `count` that are not taken moved to the front."""
    head = np.flatnonzero(~np.isin(order, taken))[:count]
    return np.concatenate([order[head], np.delete(order, head)])


class StoryOrder:
    """Samples of consecutive scenes of one story (stage 2 of the paper).

    A story of n scenes has n // scenes samples an epoch, which follow one another from a place that
    is drawn; a story with fewer scenes has none. Raises ValueError if no story has enough.
    """

    def __init__(self, scene_counts: Sequence[int], scenes: int, seed: Sequence[int]):
        counts = np.asarray(scene_counts, np.int64)
        windows = counts // scenes
        self.too_short = int(np.sum(windows == 0))
        if not windows.sum():
            raise ValueError(
                f"no story has the {scenes} scenes of a sample; the longest has "
                f"{counts.max(initial=0)}"
            )
        self.scenes = scenes
        self.seed = seed
        self._spare = counts - windows * scenes
        # Story and number within the story of each sample of an epoch.
        self._story = np.repeat(np.arange(len(counts)), windows)
        self._window = np.concatenate([np.arange(n) for n in windows])
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def samples_per_epoch(self) -> float:
        """Number of samples, the same in every epoch."""
        return float(len(self._story))

    def sample(self, number: int) -> list[Scene]:
        """The scenes of a sample."""
        epoch, index = divmod(number, len(self._story))
        order, offsets = self._epoch(epoch)
        place = order[index]
        story = int(self._story[place])
        start = int(offsets[story] + self._window[place] * self.scenes)
        return [(story, start + scene) for scene in range(self.scenes)]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            rng = np.random.default_rng([*self.seed, epoch])
            drawn = (
                epoch,
                rng.permutation(len(self._story)),
                rng.integers(0, self._spare, endpoint=True),
            )
            self._drawn = drawn
        return drawn[1], drawn[2]


def draw_held_out(stories: int, share: float, seed: Sequence[int]) -> frozenset[int]:
    """The stories that are not trained on: a share of them, drawn by the seed, at least one.

    None for a share of 0. Raises ValueError if none would be left to train on.
    """
    if not share:
        return frozenset()
    number = max(round(share * stories), 1)
    if number >= stories:
        raise ValueError(f"a share of {share:g} of {stories} stories leaves none to train on")
    return frozenset(np.random.default_rng(seed).permutation(stories)[:number].tolist())


def scenes_in_order(
    counts: Sequence[int], stories: Sequence[int], scenes: int, clips: bool
) -> list[list[Scene]]:
    """The samples that stories make when each is read once: the beginnings of those long enough.

    Single clips are put together as they come.
    """
    if clips:
        singles = [(story, scene) for story in stories for scene in range(counts[story])]
        return [singles[i : i + scenes] for i in range(0, len(singles) - scenes + 1, scenes)]
    return [
        [(story, scene) for scene in range(scenes)] for story in stories if counts[story] >= scenes
    ]


class MixtureOrder:
    """The dataset of each batch: of the first n batches every dataset has its share.

    A batch is of one dataset, so that datasets can differ in size and number of frames. The first
    one takes each batch at which its share of all so far, rounded, grows; those that it leaves are
    shared among the others likewise. Raises ValueError for weights that are not above 0.
    """

    def __init__(self, weights: Sequence[float]):
        values = np.asarray(weights, np.float64)
        if not len(values) or not np.all(np.isfinite(values)) or not np.all(values > 0):
            raise ValueError(f"weights of datasets must be above 0, got {tuple(weights)}")
        # Of what the datasets before it leave.
        self._shares = (values / np.cumsum(values[::-1])[::-1]).tolist()

    def dataset(self, batch: int) -> tuple[int, int]:
        """The batch's dataset, and how many batches before it were of the same."""
        for number, share in enumerate(self._shares):
            before = math.floor(batch * share + 0.5)
            if number == len(self._shares) - 1 or math.floor((batch + 1) * share + 0.5) > before:
                return number, before
            batch -= before
        raise AssertionError("the last dataset takes what is left")

    def first_batch(self, dataset: int) -> int:
        """The first batch that is of a dataset."""
        return next(batch for batch in count() if self.dataset(batch)[0] == dataset)
