"""How clean generated pictures are, held against the ideal scenes that come nearest to them.

What was asked for does not matter here: that the ideal scene is the prompt's is for `accuracy`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from m2dit_jax.data.ideal import IdealScenes, fit_scenes
from m2dit_jax.evaluation.scores import Mean

FIDELITY = ("psnr", "background_rms", "actor_rms")

# Scenes are fitted in portions of about so many pixels, which bounds the memory.
_PORTION = 400_000


class Fidelity(NamedTuple):
    """Values of each scene, of which the ideal scene is that of `data.ideal.fit_scenes`.

    - psnr: peak signal-to-noise ratio to the ideal scene in dB, over all pixels of all frames and
      their three channels, of a peak of 255; 60 at most, also where nothing differs.
    - background_rms: root mean square deviation from the ideal background's colour, of the values
      from 0 to 255 of each channel. Of all pixels that the ideal actor leaves quite uncovered, and
      also their eight neighbours, so that a soft or displaced edge does not count.
    - actor_rms: the same from the ideal actor's colour, of pixels that it covers wholly, as it does
      their neighbours. NaN if there is none, as on canvases below 16 px.
    """

    psnr: Float[np.ndarray, "*scenes"]
    background_rms: Float[np.ndarray, "*scenes"]
    actor_rms: Float[np.ndarray, "*scenes"]


def measure_fidelity(videos: UInt8[np.ndarray, "*scenes F S S 3"]) -> Fidelity:
    """The fidelity of square scenes as `shapes` draws them."""
    scenes = videos.reshape(-1, *videos.shape[-4:])
    portion = max(1, _PORTION // max(1, scenes[0, ..., 0].size))
    parts = [_measure(scenes[i : i + portion]) for i in range(0, len(scenes), portion)]
    return Fidelity(
        *(np.concatenate(p).reshape(videos.shape[:-4]) for p in zip(*parts, strict=True))
    )


def score_fidelity(fidelity: Fidelity) -> dict[str, Mean]:
    """The mean of each value over all scenes; the result's keys are FIDELITY."""
    return {name: Mean.of(getattr(fidelity, name)) for name in FIDELITY}


def psnr(
    made: UInt8[np.ndarray, "*scenes F H W 3"], clips: UInt8[np.ndarray, "*scenes F H W 3"]
) -> Float[np.ndarray, "*scenes"]:
    """Peak signal-to-noise ratio of each scene in dB; 60 at most, also where nothing differs."""
    error = np.mean((made.astype(np.float64) - clips) ** 2, axis=(-4, -3, -2, -1))
    return np.minimum(20 * np.log10(255 / np.sqrt(np.maximum(error, 1e-9))), 60.0)


def _measure(videos: UInt8[np.ndarray, "N F S S 3"]) -> Fidelity:
    ideal = fit_scenes(videos)
    return Fidelity(
        psnr(videos, ideal.render()),
        _rms(videos, ideal.background_rgb(), _inner(ideal, 0)),
        _rms(videos, ideal.actor_rgb(), _inner(ideal, 1)),
    )


def _inner(ideal: IdealScenes, coverage: int) -> Bool[np.ndarray, "N F S S"]:
    """Where a pixel and all its neighbours have that coverage."""
    there = np.pad(ideal.coverage == coverage, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
    there = there[:, :, :-2] & there[:, :, 1:-1] & there[:, :, 2:]
    return there[..., :-2] & there[..., 1:-1] & there[..., 2:]


def _rms(
    videos: UInt8[np.ndarray, "N F S S 3"],
    colour: Float[np.ndarray, "N 3"],
    where: Bool[np.ndarray, "N F S S"],
) -> Float[np.ndarray, " N"]:
    squares = ((videos - colour[:, None, None, None]) ** 2).mean(-1)
    count = where.sum((1, 2, 3))
    total = (squares * where).sum((1, 2, 3))
    return np.sqrt(np.where(count > 0, total / np.maximum(count, 1), np.nan))
