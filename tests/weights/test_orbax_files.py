import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from m2dit_jax.weights.lazy import Leaf, Tensor
from m2dit_jax.weights.orbax_files import open_arrays, open_orbax, write_orbax

VALUES = {
    "blocks.kernel": np.arange(24).reshape(3, 2, 4).astype(ml_dtypes.bfloat16),
    "list.0.bias": np.array([0.1, 0.2], np.float32),
    "list.1.bias": np.zeros(2, np.float64),
    "scale": np.array(2.5, np.float16),
}
SHAPES = {name: values.shape for name, values in VALUES.items()}
STACKED = {"blocks.kernel"}


def piece(values, read=None):
    return Tensor(values.shape, values.dtype, read or (lambda: values))


def leaves():
    return {
        name: Leaf(
            tuple(map(piece, values)) if name in STACKED else (piece(values),), name in STACKED
        )
        for name, values in VALUES.items()
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("a space and 100%20") / "params"
    write_orbax(path, leaves())
    return path


def same(found, needed):
    assert found.dtype == needed.dtype
    np.testing.assert_array_equal(found, needed)


def test_there_and_back(checkpoint):
    found = open_orbax(checkpoint, SHAPES, STACKED)
    assert found.keys() == VALUES.keys()
    for name, values in VALUES.items():
        assert found[name].shape == values.shape
        same(found[name].read(), values)


def test_plain_orbax_reads_it_as_numpy_arrays(checkpoint):
    tree = ocp.StandardCheckpointer().restore(checkpoint)
    assert tree.keys() == {"blocks", "list", "scale"}
    same(tree["blocks"]["kernel"], VALUES["blocks.kernel"])
    same(tree["list"]["1"]["bias"], VALUES["list.1.bias"])


def test_plain_orbax_reads_it_as_sharded_jax_arrays(checkpoint):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def like(values):
        return jax.ShapeDtypeStruct(values.shape, jnp.float32, sharding=here)

    tree = {
        "blocks": {"kernel": like(VALUES["blocks.kernel"])},
        "list": {"0": {"bias": like(np.zeros(2))}, "1": {"bias": like(np.zeros(2))}},
        "scale": like(VALUES["scale"]),
    }
    restored = ocp.StandardCheckpointer().restore(checkpoint, tree)
    assert isinstance(restored["blocks"]["kernel"], jax.Array)
    same(restored["blocks"]["kernel"], VALUES["blocks.kernel"].astype(np.float32))


def test_a_chunk_is_a_layer_so_that_reading_one_does_not_decode_all(checkpoint):
    base = {"driver": "file", "path": f"{checkpoint}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": "blocks.kernel/"}
    store = tensorstore.open({"driver": "zarr", "kvstore": kvstore}).result()
    assert store.chunk_layout.read_chunk.shape == (1, 2, 4)


def test_whole_arrays_by_the_first_part_of_their_names(checkpoint):
    found = open_arrays(checkpoint, "list")
    assert found.keys() == {"0.bias", "1.bias"}
    same(found["0.bias"].read(), VALUES["list.0.bias"])
    assert open_arrays(checkpoint).keys() == VALUES.keys()


def test_what_is_missing_unexpected_or_of_another_shape_is_said_together(checkpoint):
    shapes = SHAPES | {"scale": (1,), "more": (2,)}
    del shapes["list.1.bias"]
    with pytest.raises(ValueError) as caught:
        open_orbax(checkpoint, shapes, STACKED)
    assert str(caught.value).splitlines() == [
        "1 missing: more (2,)",
        "1 unexpected: list.1.bias (2,)",
        "1 of another shape: scale (found (), needs (1,))",
    ]


def test_a_failure_while_a_piece_is_read_leaves_no_checkpoint(tmp_path):
    def fail():
        raise ValueError("cannot be read")

    broken = leaves() | {"scale": Leaf((piece(VALUES["scale"], fail),), False)}
    with pytest.raises(ValueError, match="cannot be read"):
        write_orbax(tmp_path / "params", broken)
    assert not (tmp_path / "params").exists()


@pytest.mark.parametrize("damage", ["no folder", "no manifest", "cut short"])
def test_a_damaged_checkpoint(tmp_path, damage):
    path = tmp_path / "params"
    if damage != "no folder":
        write_orbax(path, leaves())
    if damage == "no manifest":
        (path / "manifest.ocdbt").unlink()
    if damage == "cut short":
        for file in path.glob("**/d/*"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path}: needs a whole Orbax checkpoint"):
        open_orbax(path, SHAPES, STACKED)["blocks.kernel"].read()
