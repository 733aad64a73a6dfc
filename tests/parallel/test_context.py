import math
from dataclasses import dataclass, replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.attention import dispatch as attention_module
from m2dit_jax.models.attention.cudnn import cudnn
from m2dit_jax.models.attention.dispatch import attention
from m2dit_jax.models.attention.splash import splash
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.parallel import context
from m2dit_jax.parallel.context import MeshPlacement, placement_on
from m2dit_jax.parallel.mesh import make_mesh

EQUAL, UNEQUAL = Layout(3, 2, 5), Layout(2, 3, (4, 9))
WITH_GLOBAL = Layout(3, 2, (0, 5, 3), global_text=True)
FRAMES = Layout(3, 1, 6, frame=2)
ANYWHERE = {  # that a CPU runs them
    "splash": partial(splash, interpret=True),
    "cudnn": partial(cudnn, backend="xla"),
}


def _mesh(sizes):
    return make_mesh(dict(zip(("data", "fsdp", "context"), sizes, strict=True)))


@dataclass(frozen=True)
class Case:
    implementation: str
    layout: Layout
    mask: str = "symmetric"
    heads: int = 8
    sizes: tuple[int, int, int] = (1, 1, 8)


CASES = [
    *(
        Case(name, layout, mask)
        for name in ("dense", "chunked")
        for layout in (EQUAL, UNEQUAL)
        for mask in ("symmetric", "independent")
    ),
    Case("grouped", EQUAL),
    Case("grouped", EQUAL, "full", sizes=(2, 2, 2)),
    Case("cudnn", EQUAL),
    Case("splash", EQUAL),
    Case("splash", UNEQUAL, sizes=(1, 2, 4)),
    # Heads that do not divide: filled up, or each on several devices with a part of the queries.
    Case("grouped", EQUAL, "causal", heads=15, sizes=(1, 2, 4)),
    Case("cudnn", EQUAL, heads=15, sizes=(2, 1, 4)),
    Case("dense", EQUAL, heads=3),
    Case("splash", UNEQUAL, heads=3, sizes=(1, 2, 4)),
    Case("cudnn", EQUAL, heads=6),
    Case("grouped", UNEQUAL, "independent", heads=6, sizes=(2, 1, 4)),
    Case("chunked", EQUAL, "full", heads=3, sizes=(1, 4, 2)),
    # Scenes see some frames of others, by a part of the queries.
    Case("grouped", FRAMES, "first_frame", heads=6, sizes=(2, 1, 4)),
    Case("splash", FRAMES, "every_other_frame", heads=3, sizes=(1, 2, 4)),
    Case("grouped", WITH_GLOBAL),
    Case("dense", WITH_GLOBAL, "causal", heads=3, sizes=(2, 1, 4)),
    Case("dense", UNEQUAL, "causal", sizes=(2, 1, 4)),
    Case("grouped", EQUAL, "causal"),
    Case("grouped", UNEQUAL, "causal", heads=6, sizes=(2, 1, 4)),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_over_devices_equals_dense_on_one(case, on_eight_devices):
    on_eight_devices(_check_attention, case)


def _check_attention(case):
    attention_module.IMPLEMENTATIONS |= ANYWHERE
    placement = MeshPlacement(_mesh(case.sizes))
    missing = placement.padding(case.layout.tokens)
    layout = replace(case.layout, padding=missing)
    assert missing and layout.tokens % case.sizes[2] == 0
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (4, layout.tokens, case.heads, 16)
    query, key, value, weights = (jax.random.normal(k, shape) for k in keys)
    # Padding is nobody's business: what comes out there does not count.
    weights = weights.at[:, layout.real_tokens :].set(0)

    stories_given = [[True, False, False], [False, True, True]] * 2
    given = jnp.array(stories_given)[:, : layout.scenes]

    def over_devices(*qkv):
        return placement.attention(*qkv, layout, case.mask, case.implementation, given)

    def outcome(attend):
        def weighted_sum(*qkv):
            out = attend(*qkv)
            return jnp.sum(weights * out), out[:, : layout.real_tokens]

        run = jax.jit(jax.value_and_grad(weighted_sum, (0, 1, 2), has_aux=True))
        (_, out), gradients = run(query, key, value)
        return jax.device_get((out, gradients))

    expected = outcome(lambda *qkv: attention(*qkv, layout, case.mask, "dense", given))
    chex.assert_trees_all_close(outcome(over_devices), expected, atol=1e-5)


def test_modulation_and_text_are_placed_as_on_one_device(on_eight_devices):
    on_eight_devices(_check_spread_and_text)


def _check_spread_and_text():
    placement = MeshPlacement(_mesh((2, 1, 4)))
    layout = Layout(3, 2, 5, placement.padding(21))
    keys = jax.random.split(jax.random.key(0), 4)
    text, video = (jax.random.normal(k, (2, 3, 4)) for k in keys[:2])
    tokens = jax.random.normal(keys[2], (2, layout.tokens, 4))
    of_text = jax.random.normal(keys[3], (2, layout.text_tokens, 4))
    real = slice(layout.real_tokens)

    def outcome(placement):
        def spread_sum(text, video):
            out = placement.spread(text, video, layout)[:, real]
            return jnp.sum(jnp.sin(out)), out

        def replaced_sum(tokens, text):
            out = placement.replace_text(placement.shard_tokens(tokens), text, layout)[:, real]
            return jnp.sum(jnp.sin(out)), out

        return jax.device_get(
            (
                jax.jit(jax.value_and_grad(spread_sum, (0, 1), True))(text, video),
                jax.jit(jax.value_and_grad(replaced_sum, (0, 1), True))(tokens, of_text),
            )
        )

    chex.assert_trees_all_close(outcome(placement), outcome(ONE_DEVICE), atol=1e-5)


def test_gathered_parameters_have_gradients_cut_by_the_rules(on_eight_devices):
    on_eight_devices(_check_gather)


def _check_gather():
    placement = MeshPlacement(_mesh((1, 4, 2)))
    params = {"mlp": {"kernel": np.arange(32.0).reshape(8, 4), "bias": np.ones(4)}}

    def total(params):
        whole = placement.gather_params(params)
        return jnp.sum(whole["mlp"]["kernel"] ** 2) + jnp.sum(whole["mlp"]["bias"] ** 3)

    gradients = jax.jit(jax.grad(total))(params)
    np.testing.assert_allclose(gradients["mlp"]["kernel"], 2 * params["mlp"]["kernel"])
    np.testing.assert_allclose(gradients["mlp"]["bias"], 3.0)
    shard = gradients["mlp"]["kernel"].addressable_shards[0].data
    assert math.prod(shard.shape) == 4


def test_one_device_is_left_alone():
    mesh = make_mesh({"data": 1, "fsdp": 1, "context": 1}, jax.devices()[:1])
    placement = placement_on(mesh)
    assert placement == Placement(target=Target.here()) and not placement.is_sharded


def test_attention_is_that_of_the_mesh_and_not_of_this_machine(monkeypatch):
    monkeypatch.setattr(context, "target_of", lambda mesh: Target("gpu", (9, 0)))
    called = []

    def spy(*args, **kwargs):
        called.append("cudnn")
        return cudnn(*args, **kwargs, backend="xla")

    monkeypatch.setitem(attention_module.IMPLEMENTATIONS, "cudnn", spy)
    mesh = make_mesh({"data": 1, "fsdp": 1, "context": 1}, jax.devices()[:1])
    heads = jax.ShapeDtypeStruct((1, EQUAL.tokens, 2, 16), jnp.bfloat16)
    for number, placement in enumerate((placement_on(mesh), MeshPlacement(mesh)), 1):
        attend = partial(placement.attention, layout=EQUAL, mask="symmetric", implementation="auto")
        jax.eval_shape(attend, *[heads] * 3)
        assert len(called) == number
