import jax
import jax.numpy as jnp
import pytest

from m2dit_jax.tools.planning.hlo import parse

# A loop that was unrolled: it counts to 16 in steps of 2. Its body calls a fusion.
UNROLLED = """HloModule m, entry_computation_layout={()->f32[]}, num_partitions=4

%inner (p: bf16[8,4]) -> bf16[8,4] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %doubled = bf16[8,4]{1,0} add(%p, %p), metadata={op_name="jit(f)/add"}
}

%body (state: (u32[], bf16[8,4])) -> (u32[], bf16[8,4]) {
  %state = (u32[], bf16[8,4]{1,0}) parameter(0)
  %x = bf16[8,4]{1,0} get-tuple-element(%state), index=1
  %i = u32[] get-tuple-element(%state), index=0
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  %fusion.1 = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%inner
  ROOT %out = (u32[], /*index=1*/bf16[8,4]{1,0}) tuple(%next, %fusion.1)
}

%condition (state.1: (u32[], bf16[8,4])) -> pred[] {
  %state.1 = (u32[], bf16[8,4]{1,0}) parameter(0)
  %limit = u32[] constant(16)
  %i.1 = u32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: bf16[8,4]) -> bf16[8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %zero = u32[] constant(0)
  %start = (u32[], bf16[8,4]{1,0}) tuple(u32[] %zero, bf16[8,4]{1,0} %a)
  %loop = (u32[], bf16[8,4]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %result = bf16[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_an_unrolled_loop_runs_as_often_as_its_step_says():
    module = parse(UNROLLED)
    assert module.run_counts() == {"main": 1, "condition": 8, "body": 8, "inner": 8}
    assert "inner" not in module.run_counts(within_fusions=False)
    assert module.partitions == 4


def test_shapes_operands_and_sources_are_read():
    module = parse(UNROLLED)
    doubled = module.computations["inner"]["doubled"]
    assert (doubled.opcode, doubled.is_root, doubled.source) == ("add", True, "jit(f)/add")
    (first, second) = module.operand_shapes("inner", doubled)
    assert (first.dims, first.bytes, first.dtype) == ((8, 4), 64, "bf16")
    assert first == second and "S(1)" in first.layout
    assert module.computations["main"]["start"].operands == ("zero", "a")
    assert [shape.dtype for shape in module.computations["body"]["out"].shapes] == ["u32", "bf16"]


def test_scans_within_scans_multiply():
    def step(x, _):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ y), None), x, length=3)[0], None

    lowered = jax.jit(lambda x: jax.lax.scan(step, x, length=5)[0]).lower(jnp.ones((4, 4)))
    module = parse(lowered.compile().as_text() or "")
    dots = [count for _, each, count in module.instructions() if each.opcode == "dot"]
    assert sum(dots) == 15 and not module.unknown_loops


def test_a_loop_without_a_plain_end_counts_once_and_is_named():
    lowered = jax.jit(
        lambda x: jax.lax.while_loop(lambda y: y.sum() < 100.0, lambda y: y @ y, x)
    ).lower(jnp.ones((4, 4)))
    module = parse(lowered.compile().as_text() or "")
    dots = [count for _, each, count in module.instructions() if each.opcode == "dot"]
    assert dots == [1] and len(module.unknown_loops) == 1


def test_what_is_no_hlo_is_refused():
    with pytest.raises(ValueError, match="not the text of an HLO module"):
        parse("something else")
