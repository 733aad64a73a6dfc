"""Masks on a model that never saw several scenes: as it is, and after a few steps with the mask.

It is what a mask alone gives to released weights of single videos (CineTrans, arXiv 2508.11484):
a model is trained on single scenes, once for each seed, and each arm of the comparison starts from
it. "As it is" is a training of one step at learning rate 0, so that everything else is as ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m2dit_jax.evaluation.children import Children
from m2dit_jax.evaluation.compare import ComparedRuns, compare, stopped_by_signals
from m2dit_jax.evaluation.comparison import Comparison

_AS_IT_IS = ("--config.train.steps=1", "--config.train.learning_rate=0.0")


@dataclass(frozen=True)
class FromSingle:
    """How a comparison begins: `single_steps` of training on single scenes.

    After that `tuned_steps` with each mask; 0: the masks are compared on the model as it is alone.
    """

    single_steps: int
    tuned_steps: int


def compare_from_single(plan: ComparedRuns, start: FromSingle) -> dict[str, Comparison]:
    """The comparison before and after the tuning, each with its own tables in the workdir.

    Runs that are there already are not made again. Raises as `compare` does.
    """
    first = {seed: plan.workdir / f"single-seed{seed}" for seed in plan.seeds}
    _train_singles(plan, first, start.single_steps)
    stages: dict[str, tuple[int, Sequence[str]]] = {"untrained": (1, _AS_IT_IS)}
    if start.tuned_steps:
        stages["tuned"] = (start.tuned_steps, [f"--config.train.steps={start.tuned_steps}"])
    made = {}
    for name, (steps, flags) in stages.items():
        made[name] = compare(
            replace(
                plan,
                overrides=[*plan.overrides, *flags],
                train_steps=steps,
                workdir=plan.workdir / name,
                first_weights=first,
            )
        )
    return made


def _train_singles(plan: ComparedRuns, first: dict[int, Path], steps: int) -> None:
    children = Children()
    with stopped_by_signals():
        try:
            for seed, folder in first.items():
                children.run(
                    f"single scenes, seed {seed}",
                    "m2dit_jax.train",
                    f"--config={plan.config_file}",
                    *plan.overrides,
                    "--config.data.scenes=1",
                    f"--config.train.steps={steps}",
                    f"--config.seed={seed}",
                    f"--workdir={folder}",
                )
        except BaseException:
            children.stop()
            raise
