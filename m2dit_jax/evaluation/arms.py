"""The arms of the comparison of masks: what each changes of a config, and what it costs."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from ml_collections import ConfigDict

from m2dit_jax.config.recipe import Recipe, make_transformer_config
from m2dit_jax.evaluation.comparison import ArmCost
from m2dit_jax.models.docs import FULL_SIZE, full_size_layout
from m2dit_jax.models.flops import training_flops
from m2dit_jax.models.masks import looks_at_frames

# By its name, the fields of config.model that an arm sets.
ARMS: dict[str, dict[str, str | bool]] = {
    name: {"mask": name}
    for name in (
        *("symmetric", "full", "independent", "causal"),
        *("first_frame", "every_other_frame", "block_diagonal"),
    )
}
ARMS["full_with_scenes"] = {"mask": "full", "scene_positions": True}

FULL_SIZE_SCENES = (3, 12)


def arm_flags(arm: str) -> list[str]:
    """The flags that make a training one of the arm."""
    return [f"--config.model.{field}={value}" for field, value in ARMS[arm].items()]


def set_arm(config: ConfigDict, arm: str) -> None:
    """Makes the config one of the arm."""
    with config.unlocked():
        config.model.update({"scene_positions": False} | ARMS[arm])


def arm_cost(recipe: Recipe) -> ArmCost:
    """The cost of an arm's recipe."""
    settings = recipe.config
    transformer = make_transformer_config(settings)
    encoder = None if settings.data.source == "latents" else settings.text_encoder
    story = training_flops(transformer, recipe.story_layout(), encoder)
    full_size = replace(FULL_SIZE, mask=transformer.mask)
    return ArmCost(
        settings.train.batch_size * story,
        {
            scenes: training_flops(full_size, full_size_layout(scenes), None)
            for scenes in FULL_SIZE_SCENES
        },
    )


def choose_arms(recipe: Recipe, wanted: Sequence[str] | None) -> list[str]:
    """The wanted arms, or all that the recipe's config can have.

    By some arms scenes see only some frames of each other: where a scene has one frame of patches
    they would be other masks by another name, and are left out with a message to stderr. Raises
    ValueError if they were wanted, and for unknown arms.
    """
    if unknown := [arm for arm in wanted or () if arm not in ARMS]:
        raise ValueError(f"--arms: there is no {', '.join(unknown)}; there are {', '.join(ARMS)}")
    layout, config = recipe.story_layout(), recipe.config
    arms = list(wanted or ARMS)
    needy = [arm for arm in arms if looks_at_frames(str(ARMS[arm]["mask"]))]
    if not needy or layout.video_counts[0] > layout.frame:
        return arms
    problem = (
        f"config.data.frames {config.data.frames} and config.model.patch_size_t "
        f"{config.model.patch_size_t} make scenes of one frame of patches, of which "
        f"{', '.join(needy)} cannot see only a part: --config.model.patch_size_t=1 makes more"
    )
    if wanted:
        raise ValueError(problem)
    print(f"left out: {problem}", file=sys.stderr)
    return [arm for arm in arms if arm not in needy]
