import math
import re
from dataclasses import FrozenInstanceError, replace
from functools import reduce
from importlib import import_module
from operator import getitem
from typing import get_args, get_origin

import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import base, pretrain_5b, shapes
from m2dit_jax.config.fields import declared_fields
from m2dit_jax.config.schema import Config
from m2dit_jax.models.masks import MASKS


def _encoded_config(**changes):
    config = pretrain_5b.get_config()
    config.model.layers = 2
    config.update_from_flattened_dict(changes)
    return config


def test_all_impossible_fields_are_named_together(tiny_config):
    tiny_config.train.steps = 0
    tiny_config.train.caption_dropout = 1.5
    tiny_config.data.size = 10
    tiny_config.model.mask = "half"
    with pytest.raises(ValueError) as error:
        Config.from_dict(tiny_config)
    message = str(error.value)
    assert "config.train.steps must be between 1 and 1000000000, got 0" in message
    assert "config.train.caption_dropout must be between 0 and 1, got 1.5" in message
    assert "config.data.size must be a multiple of config.model.patch_size 4, got 10" in message
    assert f"config.model.mask must be one of {', '.join(MASKS)}, got 'half'" in message


def test_what_another_source_reads_is_not_checked(tiny_config):
    Config.from_dict(_encoded_config(**{"data.size": -1, "text_encoder.d_model": -1}))
    tiny_config.data.height = tiny_config.data.text_dim = -1
    Config.from_dict(tiny_config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.source": "films"},
            "config.data.source must be one of shapes, storyworld, pixels, latents, got 'films'",
        ),
        (
            {"data.height": 488},
            "config.data.height must be a multiple of 8 x config.model.patch_size 2 with "
            "config.data.source 'latents', got 488",
        ),
        ({"data.width": 0}, "config.data.width must be between 1 and 16384, got 0"),
        ({"data.channels": 0}, "config.data.channels must be between 1 and 4096, got 0"),
        ({"data.text_dim": 0}, "config.data.text_dim must be between 1 and 262144, got 0"),
        ({"train.eval_every": 5}, "config.train.eval_every must be 0 with config.data.source"),
        ({"model.base_grid": (13, 30)}, "config.model.base_grid must be empty or three numbers"),
        ({"model.base_grid": (13, 30, 0)}, "got (13, 30, 0)"),
        (
            {"model.spatial_scale": 0.0},
            "spatial_scale must be above 0 and at most 1000000, got 0.0",
        ),
        (
            {"train.compute_dtype": "float16"},
            "config.train.compute_dtype must be one of float32, bfloat16, got 'float16'",
        ),
        ({"model.patch_size": 0}, "config.model.patch_size must be between 1 and 16384, got 0"),
    ],
)
def test_what_encoded_data_cannot_have(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.from_dict(_encoded_config(**changes))


def test_a_missing_field_is_named(tiny_config):
    with tiny_config.unlocked():
        del tiny_config.train.ema_decay
    with pytest.raises(ValueError, match="config.train.ema_decay is missing; configs/base.py"):
        Config.from_dict(tiny_config)


def test_a_field_that_older_configs_do_not_have_means_what_they_did(tiny_config):
    later = {each.name for each in declared_fields(Config) if each.rule.absent is not None}
    assert "train.stop_after_skipped" in later and "train.steps" not in later
    values = flatten_dict(tiny_config.to_dict(), sep=".")
    older = {name: value for name, value in values.items() if name not in later}
    config = Config.from_dict(unflatten_dict(older, sep="."))
    assert config.train.stop_after_skipped == 10
    assert config.train.loss_weighting == "scene", "what they did"


def test_the_noise_of_given_scenes_is_one_of_the_timesteps(tiny_config):
    tiny_config.train.given_noise = 1000
    message = "given_noise must be less than config.diffusion.timesteps 1000, got 1000"
    with pytest.raises(ValueError, match=message):
        Config.from_dict(tiny_config)


def test_configs_are_locked():
    with pytest.raises(AttributeError, match="steps"):
        shapes.get_config().train.stepz = 3


def test_not_a_number_is_refused(tiny_config):
    tiny_config.train.learning_rate = float("nan")
    tiny_config.sample.fps = 0.0
    with pytest.raises(ValueError, match="learning_rate must be .* 1000, got nan") as error:
        Config.from_dict(tiny_config)
    assert "config.sample.fps must be between 0.1 and 240, got 0.0" in str(error.value)


def test_every_missing_unknown_and_mistyped_field_is_named():
    values = base.get_config().to_dict()
    del values["seed"]
    values["train"] |= {"stepz": 3, "steps": "many", "ema_decay": True}
    values["model"] |= {"base_grid": (1, 2.5, 3), "scan": 1}
    with pytest.raises(ValueError) as error:
        Config.from_dict(values)
    assert sorted(str(error.value).splitlines()) == [
        "config.model.base_grid needs the type tuple[int, ...], got (1, 2.5, 3)",
        "config.model.scan needs the type bool, got 1",
        "config.seed is missing; configs/base.py has every field",
        "config.train.ema_decay needs the type float, got True",
        "config.train.steps needs the type int, got 'many'",
        "config.train.stepz: there is no such field; the nearest is config.train.steps",
    ]


def test_whole_numbers_and_lists_are_converted():
    values = base.get_config().to_dict()
    values["train"]["ema_decay"] = 0
    values["model"]["base_grid"] = [13, 30, 45]  # as JSON has it
    config = Config.from_dict(values)
    assert isinstance(config.train.ema_decay, float)
    assert config.model.base_grid == (13, 30, 45)


@pytest.mark.parametrize("file", [base, shapes, pretrain_5b])
def test_a_config_becomes_the_dict_that_it_was_read_from(file):
    values = file.get_config().to_dict()
    assert Config.from_dict(values).to_dict() == values


def test_base_has_every_field_and_the_schema_no_other():
    names = {each.name for each in declared_fields(Config)}
    assert names == set(flatten_dict(base.get_config().to_dict(), sep="."))


def test_a_changed_config_is_checked_again(tiny_config):
    config = Config.from_dict(tiny_config)
    with pytest.raises(ValueError, match="config.train.steps must be between 1 .*, got 0"):
        replace(config, train=replace(config.train, steps=0))
    with pytest.raises(FrozenInstanceError):
        config.train.steps = 3


def test_a_batch_is_a_multiple_of_its_parts(tiny_config):
    tiny_config.train.accumulate = 3
    message = "config.train.batch_size must be a multiple of config.train.accumulate 3, got 4"
    with pytest.raises(ValueError, match=message):
        Config.from_dict(tiny_config)


NUMBERS = [
    each for each in declared_fields(Config) if {each.type, *get_args(each.type)} & {int, float}
]


@pytest.mark.parametrize("each", NUMBERS, ids=lambda each: each.name)
def test_every_number_has_a_least_and_a_greatest_value(each):
    rule = each.rule
    assert rule.at_most is not None
    assert (rule.at_least is None) != (rule.above is None)


ABSURD = [10**30, 2**63, 1e300, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize(
    ("each", "value"),
    [(each, value) for each in NUMBERS for value in ABSURD]
    + [(each, -2) for each in NUMBERS if (each.rule.at_least or 0) > -2],
    ids=lambda part: getattr(part, "name", None),
)
def test_no_absurd_number_is_a_config(each, value):
    source = each.rule.sources[-1] if each.rule.sources else "latents"
    kind = get_args(each.type)[0] if get_origin(each.type) is tuple else each.type
    value = (value,) if get_origin(each.type) is tuple else value
    number = value[0] if isinstance(value, tuple) else value
    config = base.get_config()
    with config.unlocked():
        config.data.source = source
        values = config.to_dict()
        *sections, name = each.name.split(".")
        reduce(getitem, sections, values)[name] = value
    with pytest.raises(ValueError) as refused:
        Config.from_dict(values)
    problem = "must be" if kind is float or isinstance(number, int) else "needs the type"
    assert f"config.{each.name} {problem}" in str(refused.value)


def test_a_story_of_more_numbers_than_a_tensor_can_have_is_refused():
    config = base.get_config()
    config.data.frames, config.data.size = 9996, 16_384
    with pytest.raises(ValueError, match=r"frames, size make stories of 2\.41e\+13 numbers"):
        Config.from_dict(config)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data.size": 16}, "config.data.size must be at least 24 with config.data.source"),
        ({"data.short_frames": 6}, "config.data.short_frames must be 0 or a multiple of"),
        ({"data.short_frames": 8}, "less than config.data.frames 8, got 8"),
        ({"model.mask": "independent"}, "config.model.mask: config.data.source 'storyworld' has"),
    ],
)
def test_a_storyworld_that_cannot_be_drawn_is_refused(changed, message):
    from configs import storyworld

    config = storyworld.get_config()
    config.update_from_flattened_dict(changed)
    with pytest.raises(ValueError, match=message):
        Config.from_dict(config)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (
            "base",
            {"data.actor": "pink circle"},
            "config.data.actor: needs a colour .* 'pink circle'",
        ),
        ("base", {"data.stories": -1}, "config.data.stories must be between 0 and 10000000"),
        (
            "storyworld",
            {"data.stories": 9, "data.frames": 12, "data.short_frames": 8},
            "config.data.stories must be a multiple of config.train.batch_size 16 .* got 9",
        ),
    ],
)
def test_stories_to_learn_from_that_cannot_be_are_refused(name, changed, message):
    config = import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(changed)
    with pytest.raises(ValueError, match=message):
        Config.from_dict(config)
