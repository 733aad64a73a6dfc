"""The gate: whether a generated scene is fit to be shown, and given to later ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from m2dit_jax.utils.frames import cut_strength, is_cut, is_frozen, motion, saturation

# finite: no latent is infinite or no number; frozen: something moves; cut: where the scene asks
# for a cut, there is one to the scene before; saturation: it stays near that of the story's first
# scene; oracle: the scene shows what its prompt says, for models that know how to tell.
Check = Literal["finite", "frozen", "cut", "saturation", "oracle"]
CHECKS: tuple[Check, ...] = get_args(Check)
SATURATION_DRIFT = 0.3  # of 0 to 1


@dataclass(frozen=True)
class Verdict:
    """Findings of the gate: why the scene failed, nothing if it passed; and what was measured."""

    failures: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True)
class SceneToJudge:
    """A scene, and what the checks compare it with.

    `before` are the frames of the scene before, None where none are known; `first_saturation` is
    that of the story's first known scene; `oracle` what a model's own check said against it.
    """

    latents: Float[np.ndarray, "F H W C"]
    frames: UInt8[np.ndarray, "F2 H2 W2 3"]
    wants_cut: bool = False
    before: UInt8[np.ndarray, "F3 H2 W2 3"] | None = None
    first_saturation: float | None = None
    oracle: Sequence[str] = ()


def judge(scene: SceneToJudge, checks: Sequence[str]) -> Verdict:
    """Runs those of CHECKS that apply: a single frame is not frozen, the first has no cut.

    What is not finite fails in any case, as nothing else can be said of it.
    """
    if not np.isfinite(scene.latents).all():
        return Verdict(("finite: latents are infinite or no numbers",))
    failures, metrics = [], {}
    if "frozen" in checks and len(scene.frames) > 1:
        metrics["motion"] = motion(scene.frames)
        if is_frozen(scene.frames):
            failures.append(f"frozen: motion {metrics['motion']:.2f} of 255")
    if "cut" in checks and scene.wants_cut and scene.before is not None:
        metrics["cut"] = cut_strength(scene.before, scene.frames)
        if not is_cut(scene.before, scene.frames):
            failures.append(f"cut: none to the scene before, strength {metrics['cut']:.2f}")
    if "saturation" in checks:
        metrics["saturation"] = saturation(scene.frames)
        if scene.first_saturation is not None:
            drift = metrics["saturation"] - scene.first_saturation
            if abs(drift) > SATURATION_DRIFT:
                failures.append(
                    f"saturation: {metrics['saturation']:.2f}, the story's first scene has "
                    f"{scene.first_saturation:.2f}"
                )
    if "oracle" in checks:
        failures += [f"oracle: {failure}" for failure in scene.oracle]
    return Verdict(tuple(failures), metrics)
