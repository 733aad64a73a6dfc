"""Batches of stories, from the number of a batch on: grain reads ahead in threads."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, BFloat16, Int, UInt8

from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.data.pictures import ScenePictures, StoryPictures, has_picture
from m2dit_jax.data.story_order import ClipOrder, MixtureOrder, StoryOrder
from m2dit_jax.data.worlds import StorySource

Tokenize = Callable[[Sequence[str]], Int[np.ndarray, "N T"]]
_MOST_BATCHES = 2**40  # there is no end, but grain wants one
T = TypeVar("T")


class Batch(NamedTuple):
    """Pixels and prompts of B stories.

    If there is one prompt more than there are scenes, the first is global. `lengths` are the frames
    of each scene that are real, the same in all stories; None: all are.
    """

    video: UInt8[Array | np.ndarray, "*B S F H W 3"]
    token_ids: Int[Array | np.ndarray, "*B P T"]
    lengths: Int[Array | np.ndarray, "*B S"] | None = None

    @property
    def prompts(self) -> Any:
        """The prompts, as what the model reads."""
        return self.token_ids


class EncodedBatch(NamedTuple):
    """The VAE's posterior, unscaled, and the prompts' embeddings of B stories.

    `lengths` are the latent frames of each scene that are real, as of Batch.
    """

    mean: BFloat16[Array | np.ndarray, "*B S F H W C"]
    logvar: BFloat16[Array | np.ndarray, "*B S F H W C"]
    text_embeds: BFloat16[Array | np.ndarray, "*B S T E"]
    lengths: Int[Array | np.ndarray, "*B S"] | None = None

    @property
    def prompts(self) -> Any:
        """The prompts, as what the model reads."""
        return self.text_embeds


# From the number of a global batch and a row of it to that row: a batch without its first axis.
SampleAt = Callable[[int, int], Batch | EncodedBatch]


def world_samples(
    source: StorySource,
    tokenize: Tokenize,
    batch_size: int,
    ragged: bool = False,
    pictures: StoryPictures | None = None,
) -> SampleAt:
    """Procedural stories in the order of the source, over and over; `ragged` with their lengths."""
    tokenize_one = _cached(tokenize)

    def sample_at(batch: int, row: int) -> Batch:
        number = (batch * batch_size + row) % len(source)
        story = source[number]
        if pictures is not None and pictures.has(batch):
            story = pictures.add(story, number)
        token_ids = np.stack([tokenize_one(prompt) for prompt in story.prompts])
        return Batch(story.video, token_ids, np.array(story.lengths) if ragged else None)

    return sample_at


class EncodedSamples:
    """Samples of what the encode command wrote: clips put together, or scenes of a story.

    Every batch is of one of the datasets, by their weights (None: by their numbers of samples).
    Datasets of pixels need `tokenize`. `held_out` has for each dataset the stories to leave out.
    `pictures` puts one before the samples of a share of each dataset's batches. Raises ValueError
    for datasets without a sample.
    """

    def __init__(
        self,
        datasets: Sequence[EncodedDataset],
        scenes: int,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        tokenize: Tokenize | None = None,
        held_out: Sequence[Collection[int]] = (),
        pictures: ScenePictures | None = None,
    ):
        self.datasets = tuple(datasets)
        self.pictures = pictures
        self.batch_size = batch_size
        self.orders = [
            _order(dataset, scenes, (seed, number), held_out[number] if held_out else ())
            for number, dataset in enumerate(datasets)
        ]
        if weights is None:
            weights = [order.samples_per_epoch for order in self.orders]
        if len(weights) != len(self.datasets):
            raise ValueError(f"{len(weights)} weights for {len(self.datasets)} datasets")
        self.mixture = MixtureOrder(weights)
        self._tokenize = None if tokenize is None else _cached(tokenize)

    def __call__(self, batch: int, row: int) -> Batch | EncodedBatch:
        """A row of a batch. Raises EncodedError if the record is damaged."""
        dataset, scenes = self.scenes_at(batch, row)
        sample = self.read(dataset, scenes)
        if self.pictures is None:
            return sample
        if not self._has_picture(batch):
            return with_lengths(sample)
        scene = self.pictures.choose(scenes, dataset.scene_counts, (batch, row))
        return with_picture(sample, self.read(dataset, [scene]), self.pictures.frames)

    def examples(self) -> list[int]:
        """Numbers of batches of every kind: of each dataset, with and without pictures."""
        found: list[int] = []
        for number in range(len(self.datasets)):
            share = 0.0 if self.pictures is None else self.pictures.share
            wanted = {True, False} if 0 < share < 1 else {share == 1}
            batch = self.mixture.first_batch(number)
            while wanted:
                is_of_it = self.mixture.dataset(batch)[0] == number
                if is_of_it and (kind := self._has_picture(batch)) in wanted:
                    wanted.remove(kind)
                    found.append(batch)
                batch += 1
        return found

    def _has_picture(self, batch: int) -> bool:
        share = 0.0 if self.pictures is None else self.pictures.share
        return has_picture(self.mixture.dataset(batch)[1], share)

    def read(
        self, dataset: EncodedDataset, scenes: Sequence[tuple[int, int]]
    ) -> Batch | EncodedBatch:
        """The scenes of a dataset, by story and number, as a row of a batch."""
        stories = {story: dataset[story] for story in dict(scenes)}

        def stacked(name: str) -> np.ndarray:
            return np.stack([np.asarray(stories[story][name])[scene] for story, scene in scenes])

        if self._tokenize is None:
            return EncodedBatch(stacked("mean"), stacked("logvar"), stacked("text_embeds"))
        captions = [stories[story]["captions"][scene] for story, scene in scenes]
        return Batch(stacked("pixels"), np.stack([self._tokenize(c) for c in captions]))

    def scenes_at(self, batch: int, row: int) -> tuple[EncodedDataset, list[tuple[int, int]]]:
        """The dataset of a row of a batch, with the numbers of story and scene of its scenes."""
        number, before = self.mixture.dataset(batch)
        return self.datasets[number], self.orders[number].sample(before * self.batch_size + row)


def with_lengths(sample: Batch | EncodedBatch) -> Batch | EncodedBatch:
    """A sample whose scenes have one length, which is told."""
    clean = _clean(sample)
    return sample._replace(lengths=np.full(clean.shape[0], clean.shape[1]))


def with_picture(
    sample: Batch | EncodedBatch, scene: Batch | EncodedBatch, frames: int
) -> Batch | EncodedBatch:
    """A sample after the first frame of a scene (a sample of one scene), which lasts `frames`.

    A causal VAE's first latent frame is that of the first frame alone.
    """
    clean = _clean(sample)

    def joined(later: np.ndarray, first: np.ndarray) -> np.ndarray:
        if later.ndim != clean.ndim:  # prompts
            return np.concatenate([first, later])
        still = np.zeros_like(later[:1])
        still[:, :frames] = first[:, :1]
        return np.concatenate([still, later])

    pairs = zip(sample[:-1], scene[:-1], strict=True)  # all but the lengths
    lengths = np.array([frames, *(clean.shape[1],) * clean.shape[0]])
    return type(sample)._make([*(joined(*map(np.asarray, pair)) for pair in pairs), lengths])


def _clean(sample: Batch | EncodedBatch) -> Any:
    return sample.mean if isinstance(sample, EncodedBatch) else sample.video


def unequal_lengths(batch: Batch | EncodedBatch) -> tuple[int, ...] | None:
    """The frames of each scene of a batch's stories; None where scenes have one length."""
    lengths = batch.lengths
    if lengths is None:
        return None
    rows = lengths.addressable_data(0) if isinstance(lengths, Array) else lengths
    frames = tuple(np.asarray(rows).reshape(-1, lengths.shape[-1])[0].tolist())
    return frames if min(frames) < _clean(batch).shape[-4] else None


def make_loader(
    sample_at: SampleAt,
    rows: Sequence[int],
    first_batch: int = 0,
    threads: int = 1,
    ahead: int = 4,
) -> Iterator[Any]:
    """These rows of all batches, from `first_batch` on, without an end; so many are read ahead.

    Threads are few by default: a training step on a CPU wants the cores.
    """
    import grain  # only here: timing imports this file too, and needs no loader

    source = _Rows(sample_at, tuple(rows))
    dataset = grain.MapDataset.source(source)[first_batch * len(rows) :]
    # Rows are put together in the threads too: 150 MB of latents take the caller 0.1 s and more.
    batches = dataset.batch(len(rows), drop_remainder=True)
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(batches.to_iter_dataset(read))


@dataclass(frozen=True)
class _Rows:
    """Some rows of all batches, one after another, as a source of grain's."""

    sample_at: SampleAt
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return _MOST_BATCHES * len(self.rows)

    def __getitem__(self, index: Any) -> Batch | EncodedBatch:
        batch, number = divmod(int(index), len(self.rows))
        return self.sample_at(batch, self.rows[number])


def on_devices(batches: Iterable[T], put: Callable[[T], T], ahead: int = 2) -> Iterator[T]:
    """The batches after `put`, which starts to copy them to the devices while steps still run."""
    waiting: deque[T] = deque()
    for batch in batches:
        waiting.append(put(batch))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


class StallTimer(Iterator[T]):
    """An iterator that measures the share of the time for which the devices waited for it.

    `is_busy` says whether they still compute. As steps are dispatched before the one before is
    done, a wait that ends while they do costs nothing and is not counted; one that ends later is
    counted whole, which is too much.
    """

    def __init__(self, batches: Iterator[T], is_busy: Callable[[], bool] = lambda: False):
        self._batches, self._is_busy = batches, is_busy
        self._waited, self._since = 0.0, time.perf_counter()

    def __next__(self) -> T:
        started = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            if not self._is_busy():
                self._waited += time.perf_counter() - started

    def share(self) -> float:
        """The share waited since the last call (or the beginning), between 0 and 1."""
        now = time.perf_counter()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return min(share, 1.0)


def _order(
    dataset: EncodedDataset, scenes: int, seed: tuple[int, int], held_out: Collection[int]
) -> ClipOrder | StoryOrder:
    counts = [0 if i in held_out else count for i, count in enumerate(dataset.scene_counts)]
    try:
        if dataset.info.kind == "stories":
            return StoryOrder(counts, scenes, seed)
        clips = [(story, scene) for story, n in enumerate(counts) for scene in range(n)]
        return ClipOrder(clips, scenes, seed)
    except ValueError as error:
        raise ValueError(f"{dataset.path}: {error}") from error


def _cached(tokenize: Tokenize) -> Callable[[str], Int[np.ndarray, " T"]]:
    # A caption occurs many times; tokenizing is as slow as drawing a scene of shapes.
    return lru_cache(maxsize=10_000)(lambda caption: tokenize([caption])[0])
