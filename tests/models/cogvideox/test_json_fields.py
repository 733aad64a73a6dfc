"""Whatever stands in a config, it is read as a network that can be, or refused in one line."""

import json as jsons
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.models.cogvideox.family import scene_size
from m2dit_jax.models.cogvideox.json_configs import (
    noise_schedule,
    sampler_name,
    text_encoder_config,
    transformer_config,
    vae_config,
)
from m2dit_jax.models.cogvideox.json_fields import (
    SchedulerJson,
    TextEncoderJson,
    TransformerJson,
    VaeJson,
)
from m2dit_jax.models.families import family_of

T5 = {
    **{"vocab_size": 100, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
    "feed_forward_proj": "gated-gelu",
}
READERS = {
    TransformerJson: (transformer_config, {}),
    TextEncoderJson: (text_encoder_config, T5),
    VaeJson: (vae_config, {}),
    SchedulerJson: (noise_schedule, {}),
}
FIELDS = [(kind, name) for kind in READERS for name in kind.model_fields]
ODD = [None, "2", [], [1], {}, {"a": 1}, -1, 10**30, 1e400, math.nan, -math.inf, "", True]
FITTING = {("patch_size_t", None), ("steps_offset", 0)}


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_odd_values_are_refused_with_the_field_s_name(kind, name):
    read, base = READERS[kind]
    declared = kind.model_fields[name].annotation
    for value in ODD:
        if (declared is bool and value is True) or (name == "patch_size_t" and value is None):
            continue
        if name == "block_out_channels" and value == [1]:
            continue
        with pytest.raises(ValueError) as error:
            read(base | {name: value})
        assert name in str(error.value) and "\n" not in str(error.value)
        assert len(str(error.value)) < 300


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.integers()
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FIELDS), st.data())
def test_a_config_is_read_or_refused(field, data):
    kind, _ = field
    read, base = READERS[kind]
    names = data.draw(st.lists(st.sampled_from(list(kind.model_fields)), max_size=3))
    config = base | {name: data.draw(values) for name in names}
    try:
        made = read(config)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    if kind is SchedulerJson:
        assert np.isfinite(made.alphas_cumprod()).all()
    if kind is TransformerJson:
        assert all(size >= 1 for size in scene_size(config, vae_config({})))


@pytest.mark.parametrize("name", [None, 5, [], ["X"], {}, "EulerDiscreteScheduler"])
def test_a_sampler_s_name_of_any_type(name):
    with pytest.raises(ValueError, match="scheduler config: _class_name must be one of"):
        sampler_name({"_class_name": name})


@pytest.mark.parametrize("architectures", [5, {}, "T5", [5], [None], [[]]])
def test_architectures_of_any_type(architectures):
    try:
        family_of({"architectures": architectures})
    except ValueError as error:
        assert "needs a class that ends in" in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_start": 0, "beta_end": 0},
        {"steps_offset": 1000},
        {"num_train_timesteps": 1},
    ],
)
def test_schedules_that_cannot_be(changes):
    with pytest.raises(ValueError, match="^scheduler config: "):
        noise_schedule(changes)


def test_the_released_configs_are_read():
    """Every declared default, written out as JSON."""
    for kind, (read, base) in READERS.items():
        written = {n: f.default for n, f in kind.model_fields.items() if not f.is_required()}
        assert read(base | jsons.loads(jsons.dumps(written))) == read(base)
