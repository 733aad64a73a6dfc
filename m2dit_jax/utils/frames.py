"""What can be told of a video from its pixels alone: motion, colour, light, sharpness, cuts."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8

# A frozen scene that went through H.264 (crf 12 to 35) moves by at most 0.005, the quietest of the
# real clips that we measured by 0.067 (0.019 in its quietest second), a shapes scene of 16 x 16
# pixels by 5 and more.
FROZEN_BELOW = 0.015

# Distances of colours between neighbouring frames: at most 0.007 in real shots and 0.08 in shapes
# scenes, at least 0.19 at the cuts between the real shots and 0.69 between shapes scenes.
CUT_LEAST = 0.12
CUT_RATIO = 3.0
_CUT_FRAMES = 8  # on each side, to know how much colours change without a cut
_LEVELS = 4  # of each channel


def motion(video: UInt8[np.ndarray, "F H W 3"]) -> float:
    """Mean absolute change from each frame to the next, 0 to 255.

    Raises ValueError if there are not at least two frames.
    """
    if len(video) < 2:
        raise ValueError(f"motion needs at least 2 frames, found {len(video)}")
    return float(np.mean([_change(a, b) for a, b in pairwise(video)]))


def is_frozen(video: UInt8[np.ndarray, "F H W 3"]) -> bool:
    """Whether nothing moves, but for the flicker that a video codec leaves; see FROZEN_BELOW.

    A scene in which only a little moves slowly, less than the flicker, is called frozen too.
    Raises ValueError if there are not at least two frames.
    """
    return motion(video) < FROZEN_BELOW


def saturation(video: UInt8[np.ndarray, "F H W 3"]) -> float:
    """Mean saturation of the HSV colour model, 0 (grey) to 1; black counts as grey."""
    pixels = video.astype(np.float32)
    most, least = pixels.max(-1), pixels.min(-1)
    return float(((most - least) / np.maximum(most, 1)).mean())


def brightness(video: UInt8[np.ndarray, "F H W 3"]) -> float:
    """Mean luma (Rec. 601), 0 to 255."""
    return float(luma(video).mean())


def sharpness(video: UInt8[np.ndarray, "F H W 3"]) -> float:
    """Mean absolute difference of luma between neighbouring pixels, 0 to 255.

    It depends on the size of the picture: compare only videos of one size.
    """
    grey = luma(video)
    steps = [np.abs(np.diff(grey, axis=axis)) for axis in (1, 2) if grey.shape[axis] > 1]
    return float(np.mean([step.mean() for step in steps])) if steps else 0.0


def luma(video: UInt8[np.ndarray, "*F H W 3"]) -> Float[np.ndarray, "*F H W"]:
    """The brightness of each pixel by Rec. 601, 0 to 255."""
    return video.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def cut_strength(
    before: UInt8[np.ndarray, "F1 H W 3"], after: UInt8[np.ndarray, "F2 H W 3"]
) -> float:
    """Share of the picture that changes colour from the last frame before to the first after.

    0 if the two frames have the same colours, wherever in the picture, 1 if they share none. What
    only moves is therefore no change, while a change of the light is.
    """
    return _colour_distance(*colours(np.stack([before[-1], after[0]])))


def is_cut(before: UInt8[np.ndarray, "F1 H W 3"], after: UInt8[np.ndarray, "F2 H W 3"]) -> bool:
    """Whether a new shot begins between the two videos.

    The strength must be CUT_LEAST or more, and CUT_RATIO times what changes on average between
    neighbouring frames of the two sides (at most 8 frames of each; single frames change nothing).
    A cut to a shot of just the same colours is not seen, nor is a cross fade; a flash is taken for
    a cut.
    """
    near = (before[-_CUT_FRAMES:], after[:_CUT_FRAMES])
    changes = [_colour_distance(a, b) for side in near for a, b in pairwise(colours(side))]
    return decide_cut(cut_strength(before, after), float(np.mean(changes)) if changes else 0.0)


def decide_cut(strength: float, usual: float) -> bool:
    """Whether a change of colours this strong is a cut where `usual` is the change without one."""
    return strength >= CUT_LEAST and strength >= CUT_RATIO * usual


def find_cuts(shares: Float[np.ndarray, "F 64"]) -> list[int]:
    """Numbers of the frames, from 0, before which a new shot begins, from their `colours`.

    The change to a frame must be CUT_LEAST or more, and CUT_RATIO times the median of the changes
    around it (at most 7 on each side). Of two cuts a frame apart only the stronger counts. What
    `is_cut` does not see is not found here either.
    """
    changes = [_colour_distance(a, b) for a, b in pairwise(shares)]
    found: list[int] = []
    for number, change in enumerate(changes):
        start = max(number - _CUT_FRAMES + 1, 0)
        near = changes[start:number] + changes[number + 1 : number + _CUT_FRAMES]
        if not decide_cut(change, float(np.median(near)) if near else 0.0):
            continue
        if found and found[-1] == number:  # the frame before this one: a cut over two frames
            if change > changes[number - 1]:
                found[-1] = number + 1
        else:
            found.append(number + 1)
    return found


def colours(video: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F 64"]:
    """The share of each frame that each of 4 x 4 x 4 colours takes; they add up to 1.

    A pixel between the levels of a channel counts for both in part (trilinear), so that a slight
    change of light moves slightly what a plain histogram would let jump.
    """
    position = video.reshape(len(video), -1, 3).astype(np.float64) * ((_LEVELS - 1) / 255)
    low = np.minimum(position.astype(np.int64), _LEVELS - 2)
    upper_share = position - low
    frame = np.arange(len(video))[:, None] * _LEVELS**3
    counts = np.zeros(len(video) * _LEVELS**3)
    for corner in np.ndindex(2, 2, 2):
        weights = np.where(corner, upper_share, 1 - upper_share).prod(-1)
        level = low + np.array(corner)
        index = frame + (level[..., 0] * _LEVELS + level[..., 1]) * _LEVELS + level[..., 2]
        counts += np.bincount(index.ravel(), weights.ravel(), counts.size)
    return counts.reshape(len(video), -1) / position.shape[1]


def _change(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    return float(np.abs(a.astype(np.float32) - b).mean())


def _colour_distance(a: Float[np.ndarray, " 64"], b: Float[np.ndarray, " 64"]) -> float:
    """Total variation distance, 0 to 1."""
    return float(min(np.abs(a - b).sum() / 2, 1.0))
