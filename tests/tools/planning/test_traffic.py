from m2dit_jax.tools.planning.hlo import parse
from m2dit_jax.tools.planning.traffic import traffic_bytes

# x is 64 bytes, stack 640; the fusions read a slice of the stack and write one into it.
TEXT = """HloModule m

%read (stack: f32[10,16], i: s32[]) -> f32[1,16] {
  %stack = f32[10,16]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,16]{1,0} dynamic-slice(%stack, %i, %zero), dynamic_slice_sizes={1,16}
}

%write (stack.1: f32[10,16], i.1: s32[], row: f32[1,16]) -> f32[10,16] {
  %stack.1 = f32[10,16]{1,0} parameter(0)
  %row = f32[1,16]{1,0} parameter(2)
  %i.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %update = f32[10,16]{1,0} dynamic-update-slice(%stack.1, %row, %i.1, %zero.1)
}

ENTRY %main (x: f32[16], big: f32[10,16], i.2: s32[]) -> f32[10,16] {
  %x = f32[16]{0} parameter(0)
  %big = f32[10,16]{1,0} parameter(1)
  %i.2 = s32[] parameter(2)
  %fast = f32[16]{0:T(128)S(1)} copy(%x)
  %sum = f32[16]{0:T(128)S(1)} add(%fast, %fast)
  %row.1 = f32[1,16]{1,0} fusion(%big, %i.2), kind=kLoop, calls=%read
  ROOT %new = f32[10,16]{1,0} fusion(%big, %i.2, %row.1), kind=kLoop, calls=%write
}
"""


def test_slices_count_as_what_is_sliced_and_vector_memory_is_free():
    copied = 64
    read = 64 + 64 + 4
    written = 64 + 64 + 4
    assert traffic_bytes(parse(TEXT)) == copied + read + written
