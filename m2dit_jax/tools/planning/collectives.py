"""What the devices of a compiled program tell each other, from its HLO text."""

import math
import re
from dataclasses import dataclass

import numpy as np

from m2dit_jax.tools.planning.hlo import Instruction, Module

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """A collective operation: what one device receives in a call of the program.

    It joins `group` devices, on average `per_node` in each node; `count` is how often it is done.
    `shape` is that of the result, with everything that was gathered.
    """

    kind: str
    bytes: int
    count: int
    group: int
    per_node: float
    shape: tuple[int, ...]
    dtype: str
    name: str
    source: str

    @property
    def total(self) -> int:
        """Bytes received, all times together."""
        return self.bytes * self.count

    @property
    def elements(self) -> int:
        """Numbers in the result."""
        return math.prod(self.shape)

    @property
    def from_other_nodes(self) -> float:
        """Bytes of `total` that must come over the network between nodes.

        The devices of a node can share what all of them need; an all-to-all has nothing to share.
        """
        if self.per_node >= self.group:
            return 0.0
        outside = self.total * (self.group - self.per_node) / max(self.group - 1, 1)
        shared = 1 if self.kind in ("all-to-all", "collective-permute") else self.per_node
        return outside / shared


def find_collectives(module: Module, per_node: int) -> list[Collective]:
    """All that is received, the largest first; `per_node` devices share a node."""
    found = [
        collective
        for computation, instruction, count in module.instructions()
        if (collective := _collective(module, computation, instruction, count, per_node))
        is not None
        and collective.bytes
    ]
    return sorted(found, key=lambda collective: -collective.total)


def bytes_by_kind(found: list[Collective]) -> dict[str, int]:
    """Bytes that a device receives in a call, by kind of collective."""
    return {
        kind: total
        for kind in KINDS
        if (total := sum(collective.total for collective in found if collective.kind == kind))
    }


def _collective(
    module: Module, computation: str, instruction: Instruction, count: int, per_node: int
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    operands = module.operand_shapes(computation, instruction)
    groups = _groups(instruction.attributes, module.partitions, kind)
    group = groups.shape[1]
    sent = sum(shape.bytes for shape in operands)
    received = {
        "all-gather": sent * (group - 1),
        "reduce-scatter": sent * (group - 1) // group,
        "all-reduce": 2 * sent * (group - 1) // group,
        "all-to-all": sent * (group - 1) // group,
        "collective-permute": sent,
    }[kind]
    if kind == "collective-permute":
        # Pairs of a source and a target: for the neighbour, the two are the group.
        group = 2
    largest = max(instruction.shapes, key=lambda shape: shape.bytes)
    nodes = len(np.unique(groups[0] // per_node))
    return Collective(
        kind,
        received,
        count,
        group,
        group / nodes,
        largest.dims,
        largest.dtype,
        instruction.name,
        instruction.source,
    )


def _groups(attributes: str, partitions: int, kind: str) -> np.ndarray:
    """Device numbers, a row for each group."""
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", attributes)
        return _rows(pairs[1]) if pairs else np.zeros((1, 2), int)
    listed = re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", attributes)
    if listed:
        return _rows(listed[1])
    # [groups,size]<=[dims]T(order): numbers 0.. in the shape dims, transposed, split into groups.
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, dims = (tuple(map(int, text.split(","))) for text in iota.groups()[:2])
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            numbers = numbers.transpose(tuple(map(int, iota[3].split(","))))
        return numbers.reshape(shape)
    # mesh['x'=8,'y'=4] {'x'}: numbers in the shape of a mesh, a group along the axes in braces.
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](.*?) ?\{([^}]*)\}", attributes)
    if named:
        return _along_axes(*named.groups())
    return np.arange(partitions)[None]


def _along_axes(mesh: str, order: str, along: str) -> np.ndarray:
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    chosen = [list(axes).index(name) for name in re.findall(r"'(\w+)'", along)]
    others = [number for number in range(len(axes)) if number not in chosen]
    numbers = _device_order(order, math.prod(axes.values())).reshape(tuple(axes.values()))
    group = math.prod(numbers.shape[number] for number in chosen)
    return numbers.transpose(*others, *chosen).reshape(-1, group)


def _device_order(text: str, devices: int) -> np.ndarray:
    """The numbers of text such as device_ids=([4,2]T(1,0)), transposed; without one, in order."""
    transposed = re.search(r"device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\)", text)
    if transposed:
        shape, axes = (tuple(map(int, part.split(","))) for part in transposed.groups())
        return np.arange(devices).reshape(shape).transpose(axes)
    listed = re.search(r"device_ids=\(([\d,]+)\)", text)
    return np.array(listed[1].split(","), int) if listed else np.arange(devices)


def _rows(text: str) -> np.ndarray:
    return np.array([[int(i) for i in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", text)])
