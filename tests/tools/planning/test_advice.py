from dataclasses import replace

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.tools.planning.advice import what_would_fit
from m2dit_jax.tools.planning.report import Plan
from m2dit_jax.utils.chips import CHIPS

GIB = 2**30


def plan_of(parts, mesh=(1, 8, 1), stories=8, remat="full"):
    return Plan(
        topology="h100:8",
        mode="train",
        chip=replace(CHIPS["h100"], memory_bytes=100 * GIB),
        devices=8,
        mesh=dict(zip(("data", "fsdp", "context"), mesh, strict=True)),
        stories=stories,
        remat=remat,
        attention="cudnn",
        peak_bytes=sum(parts.values()),
        parts=parts,
        model_flops=1,
        required_flops=1,
        least_bytes={},
        figures=None,
        advice=(),
    )


def test_copies_of_the_state_are_sharded(tiny_config):
    parts = {"parameters": 40 * GIB, "optimizer": 80 * GIB, "activations": 10 * GIB}
    plan = what_would_fit(plan_of(parts, mesh=(8, 1, 1)), build_recipe(tiny_config))
    assert plan.advice[0].startswith(
        "config.mesh.data 1 and fsdp 8: the state is sharded (about 25.0"
    )


def test_activations_shrink_with_stories_and_remat(tiny_config):
    parts = {"parameters": 10 * GIB, "optimizer": 20 * GIB, "activations": 100 * GIB}
    plan = what_would_fit(plan_of(parts, stories=16, remat="none"), build_recipe(tiny_config))
    named = "\n".join(plan.advice)
    assert "remat 'full'" in named and "batch_size 8 (about 80.0 GiB)" in named
    # 130 GiB less a quarter of the optimizer's 20 would still be too much.
    assert "momentum" not in named


def test_tokens_are_sharded_over_no_more_devices_than_heads(tiny_config):
    tiny_config.model.heads = 2
    parts = {"parameters": 10 * GIB, "optimizer": 20 * GIB, "activations": 100 * GIB}
    plan = what_would_fit(plan_of(parts), build_recipe(tiny_config))
    assert plan.advice == (
        "config.mesh.fsdp 4, context 2, config.train.batch_size 4 (about 80.0 GiB)",
    )


def test_a_larger_machine_is_the_last_resort(tiny_config):
    parts = {"parameters": 100 * GIB, "optimizer": 200 * GIB, "activations": 10 * GIB}
    plan = what_would_fit(plan_of(parts), build_recipe(tiny_config))
    assert plan.advice[-1].startswith("about 4 times the devices")
