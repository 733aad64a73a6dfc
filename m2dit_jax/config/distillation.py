"""The fields of `config.distill`: how a run learns to do in few steps what its teacher does."""

from dataclasses import dataclass
from typing import Any

from m2dit_jax.config.fields import FREE, setting
from m2dit_jax.diffusion.noising import SPACINGS
from m2dit_jax.utils.options import MAX_SCALE

_MOST_STEPS = 100_000


@dataclass(frozen=True)
class DistillConfig:
    """Distillation into few sampling steps (multistep consistency, arXiv 2403.06807)."""

    teacher: str = setting(
        "The trained model that is distilled: a run, the folder of one of its steps, a converted "
        "run, or a model folder. Without config.train.init_from the student starts from its "
        "weights. Empty: there is no distillation.",
        resume=FREE,
        absent="",
    )
    steps: int = setting(
        "Sampling steps that the student learns to take; config.sample.steps is the same.",
        at_least=1,
        at_most=_MOST_STEPS,
        absent=4,
    )
    spacing: str = setting(
        "Which timesteps these steps take; config.sample.spacing is the same.",
        choices=SPACINGS,
        absent="trailing",
    )
    teacher_steps: int = setting(
        "Small DDIM steps of the teacher over a whole run, a multiple of steps.",
        at_least=1,
        at_most=_MOST_STEPS,
        absent=20,
    )
    guidance_scale: float = setting(
        "Scale of the teacher's guidance, which the student learns with the rest; 1: none.",
        at_least=0,
        at_most=MAX_SCALE,
        absent=1.0,
    )
    guidance_end: float = setting(
        "Share of the teacher's steps after which its guidance ends.",
        above=0,
        at_most=1,
        absent=1.0,
    )
    clip_x0: float = setting(
        "Largest absolute value of the clean latents that the teacher predicts; 0: any.",
        at_least=0,
        at_most=MAX_SCALE,
        absent=0.0,
    )

    @property
    def evaluations(self) -> int:
        """Forward passes that the target of a training step takes: the teacher's and a student's.

        0 if there is no teacher.
        """
        return (2 + (self.guidance_scale != 1)) * bool(self.teacher)

    def problems(self, train: Any, sample: Any, timesteps: int) -> list[str]:
        """Problems of fields that do not go together, with those of `config.train` and
        `config.sample`; without a teacher there are none."""
        if not self.teacher:
            return []
        problems = []
        if self.teacher_steps % max(self.steps, 1) or self.teacher_steps > timesteps:
            problems.append(
                f"config.distill.teacher_steps must be a multiple of config.distill.steps "
                f"{self.steps} and at most config.diffusion.timesteps {timesteps}, "
                f"got {self.teacher_steps}"
            )
        # Else the run would be sampled in another way than it learns.
        wanted = {"steps": self.steps, "spacing": self.spacing, "sampler": "ddim"}
        if self.guidance_scale != 1:
            wanted["guidance_scale"] = 1.0
        problems += [
            f"config.sample.{name} must be {value!r} with config.distill, got "
            f"{getattr(sample, name)!r}"
            for name, value in wanted.items()
            if getattr(sample, name) != value
        ]
        # A student is far from the data on purpose, and learns at the timesteps of small steps.
        problems += [
            f"config.train.{name} must be 0 with config.distill, got {getattr(train, name)}"
            for name in ("validate_every", "log_snr_share")
            if getattr(train, name)
        ]
        return problems
