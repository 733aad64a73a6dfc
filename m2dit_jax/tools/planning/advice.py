"""What would make a program fit that does not, estimated from the memory of its parts."""

from dataclasses import replace

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.tools.planning.report import MARGIN, STRIPS, Plan


def what_would_fit(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with advice: the single changes that should be enough, or else all together.

    Estimates: what is kept of the activations shrinks with the stories and tokens of a device, the
    state with the devices that it is sharded over.
    """
    room = int((1 - MARGIN) * plan.chip.memory_bytes)
    if plan.peak_bytes <= room:  # it is another network of the run
        large = [stage.name for stage in plan.stages if stage.peak_bytes > room]
        return replace(plan, advice=(f"a device with more memory, for the {', '.join(large)}",))
    estimates = _changes(plan, recipe)
    enough = tuple(
        f"{change} (about {size / 2**30:.1f} GiB)" for change, size in estimates if size <= room
    )
    if enough:
        return replace(plan, advice=enough)
    factor = -(-plan.peak_bytes // room)
    more = f"about {factor} times the devices, with config.mesh.context or config.mesh.fsdp larger"
    return replace(plan, advice=(*(change for change, _ in estimates), more))


def _changes(plan: Plan, recipe: Recipe) -> list[tuple[str, int]]:
    """Each possible change and about how many bytes a device would then need."""
    if plan.mode == "decode":
        return [("decode in strips of rows, `sample --decoder=strips`", plan.peak_bytes // STRIPS)]
    state = {name: size for name, size in plan.parts.items() if name != "activations"}
    activations, held = plan.parts["activations"], sum(state.values())
    mesh, config = plan.mesh, recipe.config
    local = plan.stories // (mesh["data"] * mesh["fsdp"])
    changes = []
    if plan.mode == "train" and plan.remat != "full":
        changes.append(("config.model.remat 'full'", held + activations // 3))
    if mesh["data"] > 1:
        size = held // mesh["data"] + activations
        changes.append(
            (
                f"config.mesh.data 1 and fsdp {mesh['fsdp'] * mesh['data']}: the state is sharded",
                size,
            )
        )
    if local > 1:
        stories = plan.stories // local
        changes.append((f"config.train.batch_size {stories}", held + activations // local))
        changes.append((f"config.train.accumulate {local}", held + activations // local))
    outer = "fsdp" if mesh["fsdp"] > 1 else "data"
    factor = 2
    while mesh[outer] % factor == 0 and factor * mesh["context"] <= config.model.heads:
        wanted = f"config.mesh.{outer} {mesh[outer] // factor}, context {factor * mesh['context']}"
        stories = f"config.train.batch_size {plan.stories // factor}"
        state_size = held if outer == "fsdp" else held // factor
        changes.append((f"{wanted}, {stories}", state_size + activations // factor))
        factor *= 2
    if "optimizer" in plan.parts and config.train.momentum_dtype == "float32":
        size = held - plan.parts["optimizer"] // 4 + activations
        changes.append(("config.train.momentum_dtype 'bfloat16'", size))
    return changes
