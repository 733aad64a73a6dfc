"""Bytes that a compiled program reads from and writes to device memory, from its HLO text.

Every instruction outside of fusions reads its operands and writes its result. Of what is only
sliced, the slices count; what lies in a TPU's vector memory does not. A kernel that reads an
operand several times counts as reading it once: the figure is a lower bound.
"""

from m2dit_jax.tools.planning.hlo import ArrayShape, Instruction, Module

_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier"),
    *("while", "conditional", "call", "after-all", "partition-id", "replica-id"),
)
_SLICES = ("dynamic-slice", "slice", "gather")
_VECTOR_MEMORY = "S(1)"


def traffic_bytes(module: Module) -> int:
    """Bytes that one device reads and writes in one call of the program."""
    total = 0
    for computation, instruction, count in module.instructions(within_fusions=False):
        if instruction.opcode not in _FREE and not instruction.opcode.endswith("-done"):
            total += count * _bytes(module, computation, instruction)
    return total


def _bytes(module: Module, computation: str, instruction: Instruction) -> int:
    if instruction.opcode == "fusion":
        (body,) = instruction.called["calls"]
        return _fusion_bytes(module, computation, instruction, body)
    operands = [
        [*module.computations[computation][name].shapes]
        for name in instruction.operands
        if name in module.computations[computation]
    ]
    if instruction.opcode in _SLICES:
        return 2 * _in_memory(instruction.shapes)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _in_memory(operands[1])
    return _in_memory(instruction.shapes) + sum(_in_memory(shapes) for shapes in operands)


def _fusion_bytes(module: Module, computation: str, fusion: Instruction, body: str) -> int:
    inner = module.computations[body]
    users: dict[str, list[Instruction]] = {}
    for instruction in inner.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    parameters = {
        int(instruction.attributes[1 : instruction.attributes.index(")")]): instruction.name
        for instruction in inner.values()
        if instruction.opcode == "parameter"
    }
    written = _in_memory(fusion.shapes)
    (root,) = [instruction for instruction in inner.values() if instruction.is_root]
    updated = None
    if root.opcode == "dynamic-update-slice":
        updated = root.operands[0]
        written = _in_memory(inner[root.operands[1]].shapes)
    read = 0
    for number, name in enumerate(fusion.operands):
        if name not in module.computations[computation]:
            continue
        whole = _in_memory(module.computations[computation][name].shapes)
        parameter = parameters.get(number, "")
        uses = users.get(parameter, [])
        if parameter == updated and len(uses) == 1:
            continue
        if uses and all(use.opcode in _SLICES and use.operands[0] == parameter for use in uses):
            whole = min(whole, sum(_in_memory(use.shapes) for use in uses))
        read += whole
    return written + read


def _in_memory(shapes: tuple[ArrayShape, ...] | list[ArrayShape]) -> int:
    return sum(shape.bytes for shape in shapes if _VECTOR_MEMORY not in shape.layout)
