"""From a config and a machine to a plan: the program is compiled, and its text is read."""

import time
from dataclasses import replace

from jax.stages import Compiled

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.tools.planning.advice import what_would_fit
from m2dit_jax.tools.planning.collectives import Collective, bytes_by_kind, find_collectives
from m2dit_jax.tools.planning.compiled_flops import compiled_flops
from m2dit_jax.tools.planning.hlo import parse
from m2dit_jax.tools.planning.programs import Program, Way, make_program
from m2dit_jax.tools.planning.report import Figures, Plan, Stage
from m2dit_jax.tools.planning.roofline import roofline
from m2dit_jax.tools.planning.stages import DENOISING, compile_all, other_stages
from m2dit_jax.tools.planning.topologies import Machine
from m2dit_jax.tools.planning.traffic import traffic_bytes

_SHOWN = 5  # of the largest collectives


def make_plan(
    recipe: Recipe,
    machine: Machine,
    mode: str,
    dtype: str | None = None,
    whole_run: bool = False,
    memory: str = "offload",
    quantize: str | None = None,
) -> Plan:
    """Compiles one of MODES, in the dtype as `make_program` says.

    `whole_run` compiles the other stages of a sampling run too; `memory`, as of `load`, and
    `quantize` are those of sampling: of the ways that a policy allows, the first that fits is
    taken, else the last. Raises ValueError if the config does not fit the machine's shape.
    """
    if mode != "sample":
        return _plan_way(recipe, machine, mode, dtype, Way())
    plan = None
    # The same ones whatever the way.
    others = other_stages(recipe, machine, dtype, quantize) if whole_run else None
    for policy, in_turn in sampling_ways(memory, machine, recipe):
        plan = _plan_way(recipe, machine, mode, dtype, Way(policy, in_turn, quantize), others)
        if plan.fits:
            break
    assert plan is not None
    return plan if plan.fits else what_would_fit(plan, recipe)


def sampling_ways(memory: str, machine: Machine, recipe: Recipe) -> list[tuple[str, bool]]:
    """Policies, and whether guidance's branches go in turn, from the quickest to the leanest.

    Raises ValueError for blocks that are streamed to several devices.
    """
    alone = len(machine.devices) == 1 and recipe.config.data.source == "latents"
    if memory == "stream" and not alone:
        raise ValueError(
            "--memory=stream is for one device and a run on latents; needs another --topology or "
            "--memory=offload"
        )
    ways = {
        "resident": [("resident", False), ("resident", True)],
        "offload": [("offload", False), ("offload", True)],
        "stream": [("stream", False), ("stream", True)],
    }
    if memory == "auto":
        return ways["offload"] + ways["stream"] * alone
    return ways[memory] if alone else ways[memory][:1]


def _plan_way(
    recipe: Recipe,
    machine: Machine,
    mode: str,
    dtype: str | None,
    way: Way,
    others: tuple[Stage, ...] | None = None,
) -> Plan:
    program = make_program(recipe, machine, mode, dtype, way)
    started, held = time.monotonic(), sum(program.parts.values())
    compiled, peak = compile_all(program.lowered, machine, held)
    peak += program.beside
    figures = None
    if compiled:
        figures = _figures(program, machine, compiled, time.monotonic() - started)
    parts = program.parts | {"activations": max(peak - held, 0)}
    stages = () if others is None else (Stage(DENOISING, peak, held), *others)
    if way.policy == "resident":
        stages = all_resident(stages)
    plan = Plan(
        topology=machine.name,
        mode=mode,
        chip=machine.chip,
        devices=program.devices,
        mesh=program.mesh,
        stories=program.stories,
        remat=recipe.config.model.remat if mode == "train" else "none",
        attention=program.attention,
        peak_bytes=peak,
        parts=parts,
        model_flops=program.model_flops,
        required_flops=program.required_flops,
        least_bytes=program.least_bytes,
        figures=figures,
        advice=(),
        heads=str(program.shares or ""),
        stages=stages,
        way=way_text(way) if mode == "sample" else "",
        streamed_bytes=program.streamed,
    )
    return plan if plan.fits or mode == "sample" else what_would_fit(plan, recipe)


def way_text(way: Way) -> str:
    """The policy of memory and the form of the weights, in words."""
    in_turn = ", branches of guidance in turn" * way.in_turn
    return f"{way.policy}{in_turn}, weights {way.quantize or 'not quantised'}"


def all_resident(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages where the weights of all networks stay on the device."""
    total = sum(stage.weight_bytes for stage in stages)
    return tuple(
        replace(each, peak_bytes=each.peak_bytes + total - each.weight_bytes) for each in stages
    )


def _figures(
    program: Program, machine: Machine, compiled: list[Compiled], seconds: float
) -> Figures:
    products = kernels = traffic = 0
    found: list[Collective] = []
    loops: list[str] = []
    for runs, each in zip(program.runs, compiled, strict=True):
        module = parse(each.as_text() or "")
        flops = compiled_flops(module, program.layout, program.mask, program.query_parts)
        products, kernels = products + runs * flops.products, kernels + runs * flops.kernels
        traffic += runs * traffic_bytes(module)
        found += find_collectives(module, machine.per_node)
        loops += module.unknown_loops
    found.sort(key=lambda collective: -collective.total)
    total = products + kernels
    return Figures(
        compiled_flops=program.devices * total,
        kernel_flops=program.devices * kernels,
        collective_bytes=bytes_by_kind(found),
        largest_collectives=tuple(found[:_SHOWN]),
        gathered_activations=tuple(each for each in found if _is_activation(each, program)),
        memory_traffic_bytes=traffic,
        roofline=roofline(machine.chip, total, traffic, found),
        compile_seconds=seconds,
        unknown_loops=tuple(loops),
    )


def _is_activation(collective: Collective, program: Program) -> bool:
    """Whether it gathers what a story is between two blocks, or more."""
    if collective.kind != "all-gather" or program.layout is None:
        return False
    layout = program.layout
    lengths = {layout.tokens, layout.real_tokens, layout.real_tokens - layout.text_tokens}
    return collective.elements >= program.activation and not lengths.isdisjoint(collective.shape)
