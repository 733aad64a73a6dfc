"""Pictures to see how far a model is: a few held-out stories, and what it is trained on."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.data.loader import Batch
from m2dit_jax.evaluation.accuracy import StoryBatch
from m2dit_jax.media import stories_sheet, whole_file, write_gif
from m2dit_jax.recipe import Recipe

PREVIEW_STORIES = 4
FIRST_BATCH_STORIES = 8  # more make a picture that nobody scrolls through
_GAP = 1  # pixel between the stories of a GIF


def write_preview(folder: Path, step: int, batch: StoryBatch, fps: float) -> Image.Image:
    """The first stories of a batch as `step_<step>.gif` and, with prompts, .png; returns this."""
    folder.mkdir(exist_ok=True)
    stories = list(zip(batch.video, batch.stories, batch.given, strict=True))[:PREVIEW_STORIES]
    sheet = stories_sheet(
        [
            (video, [scene.caption for scene in scenes], given.tolist())
            for video, scenes, given in stories
        ],
        [f"step {step}, held-out story {i}" for i in range(len(stories))],
    )
    name = f"step_{step:06}"
    with whole_file(folder / f"{name}.png") as part:
        sheet.save(part, format="PNG")
    write_gif(folder / f"{name}.gif", _side_by_side(batch.video[:PREVIEW_STORIES]), fps)
    return sheet


def write_first_batch(path: Path, batch: Batch, recipe: Recipe) -> None:
    """What the model gets to see: the pixels, and the prompts as the tokenizer reads them."""
    assert recipe.tokenizer is not None  # a batch of token ids was made with it
    videos = np.asarray(batch.video)[:FIRST_BATCH_STORIES]
    prompts = [
        recipe.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for ids in np.asarray(batch.token_ids)
    ]
    stories = [
        (video, texts, [False] * len(texts)) for video, texts in zip(videos, prompts, strict=False)
    ]
    with whole_file(path) as part:
        stories_sheet(stories, [f"story {i}" for i in range(len(stories))]).save(part, format="PNG")


def _side_by_side(videos: UInt8[np.ndarray, "N S F H W 3"]) -> UInt8[np.ndarray, "F2 H W2 3"]:
    """All stories at once, each playing its scenes one after another."""
    columns = videos.reshape(len(videos), -1, *videos.shape[3:])
    framed = np.pad(columns, ((0, 0), (0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=2)[:, :, :-_GAP]
