"""How well a model gives back the clips of pixels that it was trained on.

For a handful of clips: there training has worked if the prompts bring back what they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from m2dit_jax.data.encoded import EncodedDataset, dataset_folders
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.fidelity import psnr
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.report.sheets import stories_sheet


class Clips(NamedTuple):
    """The scenes of a story as they were trained on."""

    captions: tuple[str, ...]
    video: UInt8[np.ndarray, "S F H W 3"]


class Recall(NamedTuple):
    """Stories made from the prompts of others, and how near each scene comes to its clip."""

    made: UInt8[np.ndarray, "N S F H W 3"]
    psnr: Float[np.ndarray, "N S"]


def training_stories(datasets: Sequence[EncodedDataset], scenes: int, most: int) -> list[Clips]:
    """The first stories of that many scenes; single clips are put together as they come."""
    found: list[Clips] = []
    for dataset in datasets:
        captions: list[str] = []
        videos: list[UInt8[np.ndarray, "S F H W 3"]] = []
        for number in range(len(dataset)):
            if len(found) == most:
                return found
            story = dataset[number]
            if dataset.info.kind == "stories":
                captions, videos = [], []
            captions += story["captions"]
            videos.append(story["pixels"])  # pyright: ignore[reportTypedDictNotRequiredAccess]
            if len(captions) >= scenes:
                video = np.concatenate(videos)[:scenes]
                found.append(Clips(tuple(captions[:scenes]), video))
                captions, videos = [], []
    return found


def recall_stories(
    engine: Engine, stories: Sequence[Clips], seed: int, options: SamplingOptions | None = None
) -> Recall:
    """Makes each story from its prompts alone; no scene is given.

    The stories have the same numbers of scenes and sizes; story i is sampled with seed + i. The
    options default to those of the model.
    """
    video = np.stack([story.video for story in stories])
    seeds = [seed + number for number in range(len(stories))]
    made = engine.sample_many([list(s.captions) for s in stories], seeds, options=options)
    return Recall(made.video, psnr(made.video, video))


MOST_RECALLED = 16  # training stories that are made again


@dataclass(frozen=True)
class RecallReport:
    """Scores of a run on clips: its training stories sampled again from their prompts."""

    clips: Sequence[Clips]
    recalled: Recall
    checkpoint_step: int

    @property
    def psnr(self) -> float:
        """Mean over all scenes, in dB."""
        return float(self.recalled.psnr.mean())

    def to_text(self) -> str:
        """A line for each scene, and the mean."""
        lines = [
            f"story {number}: {value:5.1f} dB  {caption}"
            for number, (clip, values) in enumerate(
                zip(self.clips, self.recalled.psnr, strict=True)
            )
            for caption, value in zip(clip.captions, values, strict=True)
        ]
        lines.append(
            f"PSNR of {len(self.clips)} training stories from their prompts: {self.psnr:.1f} dB, "
            f"step {self.checkpoint_step}"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `evaluate --json` writes."""
        return {
            "psnr": self.psnr,
            "scenes": self.recalled.psnr.tolist(),
            "checkpoint_step": self.checkpoint_step,
        }

    def sheet(self) -> Image.Image:
        """Clips above what was made of their prompts."""
        return recall_sheet(self.clips, self.recalled)


def recall_run(
    engine: Engine, num_stories: int, seed: int, options: SamplingOptions
) -> RecallReport:
    """Makes the first training stories of a run on pixels again, MOST_RECALLED at most.

    Raises ValueError if its dataset cannot be read.
    """
    assert engine.trained is not None  # it has a dataset
    data = engine.trained.recipe.config.data
    datasets = [EncodedDataset(folder) for folder in dataset_folders(data.paths)]
    # Stories of one batch have one size; the first dataset's stand for all.
    clips = training_stories(datasets[:1], data.scenes, min(num_stories, MOST_RECALLED))
    recalled = recall_stories(engine, clips, seed, options)
    return RecallReport(clips, recalled, engine.trained.step)


def recall_sheet(clips: Sequence[Clips], recalled: Recall) -> Image.Image:
    """The clips of each story above what was made of its prompts."""
    stories, titles = [], []
    for number, (clip, made, values) in enumerate(zip(clips, *recalled, strict=True)):
        for name, video in (("clips", clip.video), (f"made, PSNR {values.mean():.1f} dB", made)):
            stories.append((video, clip.captions, [False] * len(made)))
            titles.append(f"training story {number}, {name}")
    return stories_sheet(stories, titles)
