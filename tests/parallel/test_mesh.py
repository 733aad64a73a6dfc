from dataclasses import dataclass

import jax
import numpy as np
import pytest

from m2dit_jax.parallel.mesh import (
    arrange,
    batch_sharding,
    make_mesh,
    mesh_sizes,
    replicated,
    story_mesh,
    story_mesh_line,
    story_shards,
)


def axes(data, fsdp=1, context=1):
    return {"data": data, "fsdp": fsdp, "context": context}


@dataclass(frozen=True)
class FakeDevice:
    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "fake"
    process_index: int = 0


@pytest.mark.parametrize(
    ("heads", "count", "used"), [(30, None, 8), (7, None, 7), (30, 4, 4), (48, 5, 5)]
)
def test_a_story_is_sharded_over_devices_that_share_its_heads(heads, count, used):
    mesh = story_mesh(heads, count, slices(1, 8))
    assert dict(mesh.shape) == axes(1, 1, used)
    line = story_mesh_line(mesh, heads, 8)
    assert line.startswith(f"a story on {used} of 8 devices")
    assert ("--mesh" in line) == (count is None and used < 8)


def test_several_processes_all_take_part_in_a_story():
    devices = [FakeDevice(i, 0, process_index=i // 4) for i in range(8)]
    assert story_mesh(7, devices=devices).size == 8


@pytest.mark.parametrize("count", [0, 9])
def test_a_story_needs_devices_that_there_are(count):
    with pytest.raises(ValueError, match=f"a mesh of {count} devices.* from 1 to the 8"):
        story_mesh(48, count, slices(1, 8))


def slices(number, each):
    return [FakeDevice(i, i // each) for i in range(number * each)]


def test_minus_one_takes_all_devices():
    everything = {"data": jax.device_count(), "fsdp": 1, "context": 1}
    assert dict(make_mesh(axes(-1)).shape) == everything


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ((-1,), (8, 1, 1)),
        ((1, -1, 1), (1, 8, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 2, -1), (1, 2, 4)),
        ((1, 1, 8), (1, 1, 8)),
    ],
)
def test_the_rest_goes_to_one_axis(given, sizes):
    assert mesh_sizes(axes(*given), 8) == sizes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((3,), "needs 3 devices, but there are 1"),
        ((-1, 2), "needs 2 devices, but there are 1"),
        ((-1, -1), "at most one -1"),
        ((0,), "at least 1"),
        ((1, -2), "at least 1"),
    ],
)
def test_impossible_meshes_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(axes(*given))


def test_slices_lie_along_the_outer_axes():
    # Two slices of four: each story's tokens stay within a slice.
    devices = arrange(slices(2, 4), (2, 1, 4))
    assert [{d.slice_index for d in row.flat} for row in devices] == [{0}, {1}]
    devices = arrange(slices(4, 2), (2, 2, 2))
    for group in devices.reshape(4, 2):
        assert len({d.slice_index for d in group}) == 1
    # Where `data` is too small for the slices, `fsdp` is cut over them too.
    devices = arrange(slices(2, 4), (1, 2, 4))
    assert [{d.slice_index for d in row.flat} for row in devices[0]] == [{0}, {1}]


def test_a_story_is_not_cut_over_slices():
    with pytest.raises(ValueError, match="2 slices .* do not divide over .*'context': 8"):
        arrange(slices(2, 4), (1, 1, 8))


def test_a_batch_is_cut_over_the_devices(on_eight_devices):
    on_eight_devices(_check_batch_shards)


def _check_batch_shards():
    mesh = make_mesh(axes(2, 2, 2))
    assert story_shards(mesh) == 4
    x = jax.device_put(np.zeros((8, 3)), batch_sharding(mesh))
    y = jax.device_put(np.zeros((8, 3)), replicated(mesh))
    assert [s.data.shape for s in x.addressable_shards] == [(2, 3)] * 8
    assert [s.data.shape for s in y.addressable_shards] == [(8, 3)] * 8
