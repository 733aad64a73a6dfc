"""VBench's subject and background consistency (arXiv 2311.17982): formulas on features of frames.

Subject consistency is the formula on DINO's features, background consistency on those of CLIP.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from m2dit_jax.evaluation.scores import BoundedScore

Features = Float[np.ndarray, "_F _D"]


def frame_consistency(features: Float[np.ndarray, "F D"]) -> Float[np.ndarray, " F-1"]:
    """Of each frame but the first, the mean of its cosines with the first and the one before.

    The features have length 1. Negative cosines count as 0, as in VBench's code. A video's score is
    the mean over these frames. Raises ValueError for a single frame.
    """
    if len(features) < 2:
        raise ValueError(f"needs at least 2 frames, found {len(features)}")
    with_first = features[1:] @ features[0]
    with_previous = (features[1:] * features[:-1]).sum(1)
    return (np.maximum(with_first, 0) + np.maximum(with_previous, 0)) / 2


def between_scenes(scenes: Sequence[Features]) -> Float[np.ndarray, " S1"]:
    """The formula on the scenes' first frames, as if they were a video of their own.

    VBench-Long compares its clips in this way. Empty for a single scene.
    """
    if len(scenes) < 2:
        return np.zeros(0)
    return frame_consistency(np.stack([scene[0] for scene in scenes]))


def consistency_scores(
    name: str, stories: Sequence[Sequence[Features]], missing: str
) -> dict[str, BoundedScore]:
    """The consistency within scenes and between them, over all frames of all stories.

    Without any features both are None with the note `missing`. The floor is what the first frames
    of scenes of different stories reach. The ceiling within scenes is a scene that does not move,
    between them what is reached within.
    """
    within_name, between_name = f"{name} consistency", f"{name} between scenes"
    if not any(stories):
        none = BoundedScore(None, note=missing)
        return {within_name: none, between_name: none}
    within = np.concatenate([frame_consistency(scene) for story in stories for scene in story])
    between = np.concatenate([between_scenes(story) for story in stories])
    strangers = [
        max(float(a[0] @ b[0]), 0.0) for x, y in combinations(stories, 2) for a in x for b in y
    ]
    floor = float(np.mean(strangers)) if strangers else None
    inside = float(within.mean())
    note = "" if strangers else "no floor: needs several stories"
    return {
        within_name: BoundedScore(inside, floor, 1.0, len(within), note),
        between_name: BoundedScore(float(between.mean()), floor, inside, len(between), note)
        if len(between)
        else BoundedScore(None, note="needs several scenes"),
    }
