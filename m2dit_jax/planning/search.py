"""Trying meshes, remat policies and batch sizes for a machine, and ranking what was found."""

import sys
from collections.abc import Iterator

from ml_collections import ConfigDict

from m2dit_jax.planning.chips import GIB
from m2dit_jax.planning.planner import make_plan
from m2dit_jax.planning.report import Plan
from m2dit_jax.planning.topologies import Machine
from m2dit_jax.recipe import build_recipe

# Those that keep the least come first: what they do not fit with, no other fits with.
REMATS = ("full", "attention", "matrices", "none")
STORIES_EACH = (1, 2, 4)


def search(config: ConfigDict, machine: Machine) -> list[Plan]:
    """Plans training steps, the best first, with a line on stderr for each when it is there.

    For each mesh more stories, and remats that keep more, are tried as long as something fits.
    """
    plans: list[Plan] = []
    for mesh in meshes(len(machine.devices), config.model.heads):
        for remat in REMATS:
            tried = len(plans)
            for each in STORIES_EACH:
                changed = candidate(config, mesh, remat, each)
                plans.append(make_plan(build_recipe(changed), machine, "train"))
                print(row(plans[-1]), file=sys.stderr, flush=True)
                if not plans[-1].fits:
                    break
            if not any(plan.fits for plan in plans[tried:]):
                break
    return sorted(plans, key=rank)


def meshes(devices: int, heads: int) -> Iterator[dict[str, int]]:
    """Weights cut over all devices, and tokens over 1, 2, 4 ... of them while heads divide."""
    context = 1
    while devices % context == 0 and heads % context == 0:
        yield {"data": 1, "fsdp": devices // context, "context": context}
        context *= 2


def candidate(
    config: ConfigDict, mesh: dict[str, int], remat: str, stories_each: int
) -> ConfigDict:
    """The config with a mesh, a remat and so many stories on each part that stories are cut in."""
    changed = config.copy_and_resolve_references()
    changed.mesh.update(mesh)
    changed.model.remat = remat
    changed.train.batch_size = stories_each * mesh["data"] * mesh["fsdp"] * config.train.accumulate
    return changed


def rank(plan: Plan) -> tuple[bool, float, int]:
    """What fits before what does not; then by the bound of the time for a story; then by memory."""
    seconds = float("inf") if plan.figures is None else plan.figures.roofline.bound / plan.stories
    return not plan.fits, seconds, plan.peak_bytes


def table(plans: list[Plan]) -> str:
    """A line for each."""
    head = "fits  GiB/device  free  s/step  s/story  bound by  GB received  mesh, stories, remat"
    return "\n".join([head, *(row(plan) for plan in plans)])


def row(plan: Plan) -> str:
    """Of the table."""
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
