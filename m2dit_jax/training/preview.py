"""Pictures to see how far a model is: a few held-out stories, and what it is trained on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.evaluation.accuracy import StoryBatch
from m2dit_jax.evaluation.recall import Clips, Recall, recall_sheet
from m2dit_jax.report.sheets import stories_sheet
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.media import write_gif, write_mp4

PREVIEW_STORIES = 4
FIRST_BATCH_STORIES = 8  # more make a picture that nobody scrolls through
_LARGEST_GIF = 128  # pixels on a side
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
    with atomic_write(folder / f"{name}.png") as part:
        sheet.save(part, format="PNG")
    write_gif(folder / f"{name}.gif", _side_by_side(batch.video[:PREVIEW_STORIES]), fps)
    return sheet


def write_videos(
    folder: Path, name: str, videos: UInt8[np.ndarray, "N S F H W 3"], fps: float
) -> None:
    """All stories as one GIF; pictures too large for that as an MP4 each, `<name>_<story>.mp4`."""
    if max(videos.shape[3:5]) <= _LARGEST_GIF:
        write_gif(folder / f"{name}.gif", _side_by_side(videos), fps)
        return
    for number, video in enumerate(videos):
        write_mp4(folder / f"{name}_{number}.mp4", video.reshape(-1, *video.shape[2:]), fps)


def small_video(
    videos: UInt8[np.ndarray, "N S F H W 3"],
) -> UInt8[np.ndarray, "F2 H2 W2 3"]:
    """The first stories side by side; of large pictures not every pixel."""
    every = -(-max(videos.shape[3:5]) // _LARGEST_GIF)
    return _side_by_side(videos[:PREVIEW_STORIES, :, :, ::every, ::every])


def captions_text(titles: Sequence[str], captions: Sequence[Sequence[str]]) -> str:
    """Titles of stories in Markdown, and under each its captions as a numbered list."""
    parts = []
    for title, texts in zip(titles, captions, strict=True):
        numbered = [f"{number}. {text}" for number, text in enumerate(texts, 1)]
        parts.append("\n".join([f"**{title}**", "", *numbered]))
    return "\n\n".join(parts)


def write_recall(
    folder: Path, step: int, clips: Sequence[Clips], recalled: Recall, fps: float
) -> Image.Image:
    """Clips of training stories above what was made of their prompts, as `step_<step>.png`."""
    folder.mkdir(exist_ok=True)
    sheet = recall_sheet(clips[:PREVIEW_STORIES], Recall(*(x[:PREVIEW_STORIES] for x in recalled)))
    name = f"step_{step:06}"
    with atomic_write(folder / f"{name}.png") as part:
        sheet.save(part, format="PNG")
    write_gif(folder / f"{name}.gif", _side_by_side(recalled.made[:PREVIEW_STORIES]), fps)
    return sheet


def write_first_batch(path: Path, batch: Batch | EncodedBatch, recipe: Recipe) -> None:
    """Writes what the model is shown: the pixels, and the prompts as the tokenizer reads them.

    Of latents, which would need the VAE, three channels of the means are shown as colours.
    """
    if isinstance(batch, EncodedBatch):
        videos = _as_colours(np.asarray(batch.mean, np.float32)[:FIRST_BATCH_STORIES])
        prompts = [["encoded"] * video.shape[0] for video in videos]
    else:
        videos, prompts = np.asarray(batch.video)[:FIRST_BATCH_STORIES], _read(batch, recipe)
    stories = [
        (video, texts[-len(video) :], [False] * len(video))
        for video, texts in zip(videos, prompts, strict=False)
    ]
    with atomic_write(path) as part:
        stories_sheet(stories, [f"story {i}" for i in range(len(stories))]).save(part, format="PNG")


def _read(batch: Batch, recipe: Recipe) -> list[list[str]]:
    """The prompts as the tokenizer reads them."""
    assert recipe.tokenizer is not None  # a batch of token ids was made with it
    return [
        recipe.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for ids in np.asarray(batch.token_ids)
    ]


def _as_colours(latents: Float[np.ndarray, "B S F H W C"]) -> UInt8[np.ndarray, "B S F H W 3"]:
    """The first three channels, stretched to 0..255 together."""
    shown = latents[..., :3]
    shown = np.pad(shown, [(0, 0)] * 5 + [(0, 3 - shown.shape[-1])], mode="edge")
    low, high = np.percentile(shown, (1, 99))
    return np.clip((shown - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)


def _side_by_side(videos: UInt8[np.ndarray, "N S F H W 3"]) -> UInt8[np.ndarray, "F2 H W2 3"]:
    """All stories at once, each playing its scenes one after another."""
    columns = videos.reshape(len(videos), -1, *videos.shape[3:])
    framed = np.pad(columns, ((0, 0), (0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=2)[:, :, :-_GAP]
