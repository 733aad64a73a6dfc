"""Reading a compiled program's HLO text: instructions, shapes, and how often each is run.

The compiler's own totals count the body of a loop once; here it counts as often as the loop runs.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

ITEM_BYTES = {
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f16", "bf16", "s16", "u16"), 2),
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    "c128": 16,
}

_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLS = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|called_computations"
    r"|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INDEX = re.compile(r"\bindex=(\d+)")
_NAME = re.compile(r"%?([\w.\-]+)")


@dataclass(frozen=True)
class ArrayShape:
    """Element type, dimensions, and what the layout says of tiles and memory."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size in bytes without the padding of tiles; less than a byte counts as one."""
        return self.elements * ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    """Shapes of the result; several if it is a tuple."""
    operands: tuple[str, ...]
    attributes: str
    is_root: bool = False

    @cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """The computations that it names, by the kind of call."""
        found: dict[str, tuple[str, ...]] = {}
        for kind, names in _CALLS.findall(self.attributes):
            found[kind] = (*found.get(kind, ()), *_NAME.findall(names))
        return found

    @property
    def source(self) -> str:
        """The part of the model that it came from, if the compiler kept that."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclass(frozen=True)
class Module:
    """A program: computations by name, each a dict of instructions by name."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    partitions: int
    unknown_loops: list[str] = field(default_factory=list)
    """Loops of which the text does not say how often they run; they count once."""

    def operand_shapes(self, computation: str, instruction: Instruction) -> list[ArrayShape]:
        """The shapes of all operands, tuples flattened."""
        known = self.computations[computation]
        return [
            shape for name in instruction.operands if name in known for shape in known[name].shapes
        ]

    def run_counts(self, within_fusions: bool = True) -> dict[str, int]:
        """Number of runs of each computation in one call of the program."""
        counts: dict[str, int] = {}
        self._count(self.entry, 1, counts, within_fusions)
        return counts

    def instructions(self, within_fusions: bool = True) -> Iterator[tuple[str, Instruction, int]]:
        """Computation, instruction and how often it is run."""
        for name, count in self.run_counts(within_fusions).items():
            for instruction in self.computations[name].values():
                yield name, instruction, count

    def _count(
        self, computation: str, times: int, counts: dict[str, int], within_fusions: bool
    ) -> None:
        counts[computation] = counts.get(computation, 0) + times
        for instruction in self.computations[computation].values():
            # The ends of something asynchronous name again what its start has called.
            if instruction.opcode.endswith(("-done", "-update")):
                continue
            if instruction.opcode == "fusion" and not within_fusions:
                continue
            trips = self._trips(instruction) if instruction.opcode == "while" else 1
            for kind, names in instruction.called.items():
                # What reductions and sorts apply is scalar.
                if kind == "to_apply" and instruction.opcode not in ("call", "async-start"):
                    continue
                for name in names:
                    if name in self.computations:
                        self._count(name, times * trips, counts, within_fusions)

    def _trips(self, loop: Instruction) -> int:
        known = _TRIP_COUNT.search(loop.attributes)
        if known:
            return int(known[1])
        trips = self._counted_trips(loop)
        if trips is None and loop.name not in self.unknown_loops:
            self.unknown_loops.append(loop.name)
        return trips or 1

    def _counted_trips(self, loop: Instruction) -> int | None:
        """Rounds of a loop that counts from 0 to a constant, in larger steps if unrolled."""
        (condition,), (body,) = loop.called["condition"], loop.called["body"]
        limits = [
            value
            for instruction in self.computations[condition].values()
            if (value := _integer(instruction)) is not None
        ]
        if len(limits) != 1:
            return None
        counter = self._counter(condition)
        step = 1 if counter is None else self._step(body, counter)
        return -(-limits[0] // step)

    def _counter(self, condition: str) -> int | None:
        """The element of the loop's state that is compared; None if that is not plain to see."""
        known = self.computations[condition]
        (root,) = [each for each in known.values() if each.is_root]
        found = [
            int(index[1])
            for name in root.operands
            if name in known and (index := _INDEX.search(known[name].attributes))
        ]
        return found[0] if root.opcode == "compare" and len(found) == 1 else None

    def _step(self, body: str, counter: int) -> int:
        """The number added to that element in the body; 1 if that is not plain to see."""
        known = self.computations[body]
        (root,) = [each for each in known.values() if each.is_root]
        step, name = 0, root.operands[counter] if root.opcode == "tuple" else ""
        while name in known and known[name].opcode in ("add", "copy"):
            values = [_integer(known[each]) for each in known[name].operands if each in known]
            step += sum(value for value in values if value is not None)
            counters = [
                each
                for each in known[name].operands
                if each in known and _integer(known[each]) is None
            ]
            name = counters[0] if len(counters) == 1 else ""
        return step or 1


def parse(text: str) -> Module:
    """The module of `jax.stages.Compiled.as_text()`. Raises ValueError if that is none."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found and current is not None:
            current[found[2]] = _instruction(found[2], found[3], bool(found[1]))
    if not entry:
        raise ValueError(f"not the text of an HLO module: {text[:80]!r}")
    partitions = re.search(r"num_partitions=(\d+)", text)
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def _integer(instruction: Instruction) -> int | None:
    """The value of a whole constant; None for every other instruction."""
    value = re.match(r"\((\d+)\)", instruction.attributes)
    return int(value[1]) if value and instruction.opcode == "constant" else None


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shapes, rest = _array_shapes(text[:end]), text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening) - 1
    opcode, inside, after = rest[:opening], rest[opening + 1 : closing], rest[closing + 1 :]
    if opcode in ("constant", "parameter", "iota"):
        return Instruction(name, opcode, shapes, (), f"({inside}){after}", is_root)
    return Instruction(name, opcode, shapes, tuple(_operand_names(inside)), after, is_root)


def _array_shapes(text: str) -> tuple[ArrayShape, ...]:
    return tuple(
        ArrayShape(dtype, tuple(int(size) for size in dims.split(",") if size), layout)
        for dtype, dims, layout in _ARRAY.findall(text)
    )


def _operand_names(text: str) -> Iterator[str]:
    """The last word of each operand: before it there may be its type."""
    depth, start = 0, 0
    for position, character in enumerate(text + ","):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            words = re.sub(r"/\*.*?\*/", "", text[start:position]).split()
            if words:
                yield words[-1].lstrip("%")
            start = position + 1


def _closing(text: str, opening: int) -> int:
    """The index after the parenthesis that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"a parenthesis is not closed in the HLO line {text[:80]!r}")
