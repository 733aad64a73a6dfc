"""Trying meshes, remat policies and batch sizes for a machine, and ranking what was found."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from m2dit_jax.config.mesh_fields import MeshConfig
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.tools.planning.planner import make_plan
from m2dit_jax.tools.planning.report import Plan
from m2dit_jax.tools.planning.topologies import Machine
from m2dit_jax.utils.chips import GIB

# What is tried for each mesh, each row as long as it fits: more stories, or keeping more of them.
# A compilation takes minutes, so that not everything is combined with everything.
ROWS = (
    (("full", 1), ("full", 2), ("full", 4)),
    (("attention", 1), ("matrices", 1), ("none", 1)),
)


def search(config: Config, machine: Machine) -> list[Plan]:
    """Plans training steps, the best first, with a line on stderr for each when it is there.

    For each mesh ROWS are tried, none of the later ones if not even the first candidate fits.
    """
    plans: list[Plan] = []
    for mesh in meshes(len(machine.devices), config.model.heads):
        for candidates in ROWS:
            tried = _while_it_fits(config, machine, mesh, candidates)
            plans += tried
            if not tried[0].fits:
                break
    return sorted(plans, key=rank)


def _while_it_fits(
    config: Config,
    machine: Machine,
    mesh: dict[str, int],
    candidates: tuple[tuple[str, int], ...],
) -> list[Plan]:
    plans = []
    for remat, stories_each in candidates:
        recipe = build_recipe(candidate(config, mesh, remat, stories_each))
        plans.append(make_plan(recipe, machine, "train"))
        print(row(plans[-1]), file=sys.stderr, flush=True)
        if not plans[-1].fits:
            break
    return plans


def meshes(devices: int, heads: int) -> Iterator[dict[str, int]]:
    """Meshes with weights on all devices, and tokens on 1, 2, 4 ... devices, no more than heads."""
    context = 1
    while devices % context == 0 and context <= heads:
        yield {"data": 1, "fsdp": devices // context, "context": context}
        context *= 2


def candidate(config: Config, mesh: dict[str, int], remat: str, stories_each: int) -> Config:
    """The config with a mesh, a remat and so many stories in each shard of the batch."""
    stories = stories_each * mesh["data"] * mesh["fsdp"] * config.train.accumulate
    return replace(
        config,
        mesh=MeshConfig(**mesh),
        model=replace(config.model, remat=remat),
        train=replace(config.train, batch_size=stories),
    )


def rank(plan: Plan) -> tuple[bool, float, int]:
    """The sort key: what fits first, then the bound of the time for a story, then memory."""
    seconds = float("inf") if plan.figures is None else plan.figures.roofline.bound / plan.stories
    return not plan.fits, seconds, plan.peak_bytes


def table(plans: list[Plan]) -> str:
    """The plans as text, a line for each."""
    head = "fits  GiB/device  free  s/step  s/story  bound by  GB received  mesh, stories, remat"
    return "\n".join([head, *(row(plan) for plan in plans)])


def row(plan: Plan) -> str:
    """The line of a plan in the table."""
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    what = f"{mesh}, {plan.stories}, {plan.remat}"
    memory = f"{plan.peak_bytes / GIB:10.1f}  {plan.margin:4.0%}"
    if plan.figures is None:
        return f"no    {memory}  {'-':>6}  {'-':>7}  {'-':8}  {'-':>11}  {what}"
    line, received = plan.figures.roofline, sum(plan.figures.collective_bytes.values())
    return (
        f"{'yes' if plan.fits else 'no':4}  {memory}  {line.bound:6.2f}  "
        f"{line.bound / plan.stories:7.3f}  {line.bound_by:8}  {received / 1e9:11.2f}  {what}"
    )
