"""How actors move: their paths through a scene."""

import numpy as np

from m2dit_jax.data.storyworld.attributes import Scene
from m2dit_jax.data.storyworld.drawing import STANDING, Path

LEAST_FRAMES = 3  # of fewer nobody could say whether one jumps
APART = 0.2  # of the middles of two actors, from the middle of the canvas
WALK = {1: 0.36, 2: 0.18}  # length of a walk, by the number of actors
MEET = 0.11  # way of each of two that meet; they stop where two actors stand
JUMP = 0.2  # height of a jump
JITTER = {1: 0.06, 2: 0.015}  # of the middle of all paths, to either side


def scene_paths(scene: Scene, rng: np.random.Generator) -> tuple[Path, ...]:
    """The paths of a scene's actors; random is only how far they stand to the side."""
    actors, frames = len(scene.actors), scene.frames
    time = np.linspace(0, 1, frames)
    still = np.zeros(frames)
    middle = 0.5 + rng.uniform(-1, 1) * JITTER[actors]
    paths = []
    for number in range(actors):
        side = 0 if actors == 1 else 2 * number - 1  # -1: the left one
        x = middle + side * APART + still
        y, facing, stride = STANDING + still, still, still
        steps = np.cos(np.pi / 2 * np.arange(frames))
        if scene.motion in ("left", "right"):
            direction = 1 if scene.motion == "right" else -1
            x = x + direction * WALK[actors] * (time - 0.5)
            facing, stride = direction + still, steps
        elif scene.motion == "meet":
            x = x + side * MEET * (1 - time)
            facing, stride = -side + still, steps
        elif scene.motion == "turn":
            facing = 2 * time - 1
        elif scene.motion == "jump":
            y = y - JUMP * 4 * time * (1 - time)
        else:
            raise ValueError(f"unknown motion {scene.motion!r}")
        paths.append(Path(x, y, facing, stride))
    return tuple(paths)
