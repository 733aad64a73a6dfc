import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.safetensors_files import open_safetensors, write_safetensors

VALUES = {
    "b": np.arange(6, dtype=np.float16).reshape(2, 3),
    "a": np.array([1.5, -2.5], ml_dtypes.bfloat16),
    "c": np.full((3, 1), 0.1, np.float32),
    "d": np.array(7.0),
    "e": np.zeros((0, 4), np.float32),
}
STEM = "diffusion_pytorch_model"


def lazy(values):
    return {name: Tensor(x.shape, x.dtype, lambda x=x: x) for name, x in values.items()}


def write(folder, max_shard_bytes=10**9, values=VALUES):
    write_safetensors(folder, STEM, lazy(values), max_shard_bytes)


def same(found, needed):
    assert found.keys() == needed.keys()
    for name, values in needed.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_the_safetensors_package_reads_what_is_written(tmp_path):
    write(tmp_path)
    same(load_file(tmp_path / f"{STEM}.safetensors"), VALUES)


def test_the_file_is_the_one_that_the_safetensors_package_writes(tmp_path):
    write(tmp_path)
    save_file(VALUES, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / f"{STEM}.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_tensors_are_read_in_the_given_order_whatever_their_places(tmp_path):
    read = []
    tensors = {
        name: Tensor(x.shape, x.dtype, lambda name=name, x=x: (read.append(name), x)[1])
        for name, x in VALUES.items()
    }
    write_safetensors(tmp_path, STEM, tensors, 20)
    assert read == list(VALUES)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20, 1])
def test_there_and_back(tmp_path, max_shard_bytes):
    write(tmp_path, max_shard_bytes)
    tensors = open_safetensors(tmp_path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: values.shape for name, values in VALUES.items()
    }
    same({name: tensor.read() for name, tensor in tensors.items()}, VALUES)


def test_there_are_shards_and_an_index_if_one_file_would_be_too_large(tmp_path):
    write(tmp_path, 20)
    index = json.loads((tmp_path / f"{STEM}.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 36}
    names = [f"{STEM}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == names
    for name in names:
        held = load_file(tmp_path / name)
        assert sorted(held) == sorted(k for k, v in index["weight_map"].items() if v == name)


# --- what cannot be read


def refused(folder, message):
    with pytest.raises(ValueError, match=message):
        open_safetensors(folder)


def test_a_folder_without_weights_says_what_it_needs(tmp_path):
    refused(tmp_path, r"needs diffusion_pytorch_model\.safetensors or .*found no weights")


def test_pickled_weights_are_not_read_and_the_way_out_is_said(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, r"found only pytorch_model\.bin; pickled .* save_pretrained")


def test_weights_of_another_name_are_not_taken(tmp_path):
    (tmp_path / "model.fp16.safetensors").write_bytes(b"x")
    refused(tmp_path, r"found only model\.fp16\.safetensors$")


def test_a_file_beside_an_index_is_ambiguous(tmp_path):
    write(tmp_path, 20)
    write(tmp_path)
    refused(tmp_path, "needs one file of weights or one index, found .* delete")


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_a_truncated_file(tmp_path, length):
    write(tmp_path)
    path = tmp_path / f"{STEM}.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(tmp_path, rf"{STEM}\.safetensors: damaged or truncated .*download or copy it again")


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        b"\x02" + b"\0" * 7 + b"[]",
        b"\x02" + b"\0" * 7 + b"\xff\xff",
        header({"a": {"dtype": "F32"}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"00000",
        header({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}) + b"0000",
    ],
)
def test_a_damaged_header(tmp_path, content):
    (tmp_path / f"{STEM}.safetensors").write_bytes(content)
    refused(tmp_path, r"damaged or truncated")


def test_a_dtype_that_no_network_has(tmp_path):
    save_file({"a": np.arange(3)}, tmp_path / f"{STEM}.safetensors")
    refused(tmp_path, "a has the dtype I64, needs one of F64, F32, F16, BF16")


def test_a_missing_shard(tmp_path):
    write(tmp_path, 20)
    (tmp_path / f"{STEM}-00002-of-00002.safetensors").unlink()
    refused(tmp_path, rf"lacks 1 of the 2 shards .* {STEM}-00002-of-00002\.safetensors; download")


def edit_index(folder, edit):
    path = folder / f"{STEM}.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


def test_an_index_that_names_a_tensor_its_shard_lacks(tmp_path):
    write(tmp_path, 20)
    edit_index(
        tmp_path, lambda weight_map: weight_map.update(z=f"{STEM}-00001-of-00002.safetensors")
    )
    refused(tmp_path, r"00001-of-00002\.safetensors: lacks z and 0 more that .*index\.json says")


def test_a_tensor_in_two_shards(tmp_path):
    write(tmp_path, 20)
    save_file({"d": VALUES["d"]}, tmp_path / "third.safetensors")
    edit_index(tmp_path, lambda weight_map: weight_map.update(d="third.safetensors"))
    refused(tmp_path, r"third\.safetensors: holds d and 0 more that another shard holds too")


def test_an_index_may_not_lead_elsewhere(tmp_path):
    write(tmp_path, 20)
    edit_index(tmp_path, lambda weight_map: weight_map.update(d="../x.safetensors"))
    refused(tmp_path, "shards must lie beside it")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}'])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(text)
    refused(tmp_path, r"index\.json: needs JSON with a .weight_map")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    write(tmp_path)
    tensor = open_safetensors(tmp_path)["a"]
    (tmp_path / f"{STEM}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="became shorter"):
        tensor.read()


def header_file(folder, header, nbytes=8):
    text = header if isinstance(header, str) else json.dumps(header)
    path = folder / f"{STEM}.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(nbytes))
    return path


def entry(offsets=(0, 8), shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "odd",
    [
        entry(offsets=[0, 8.0]),
        entry(offsets=["0", "8"]),
        entry(offsets=[-8, 0]),
        entry(offsets=[0, 10**30]),
        entry(offsets=None),
        entry(offsets=[0]),
        entry(shape=[2.0]),
        entry(shape=[True, 2]),
        entry(shape=None),
        entry(shape=[-2]),
        entry(shape=[3]),
        entry(shape=[2**62, 4]),
        entry(dtype=5),
        entry(dtype=None),
        entry(dtype="F31"),
        entry(dtype="I32"),
        {},
        [],
        None,
        "F32",
    ],
)
def test_odd_entries_of_a_header_name_file_and_tensor(tmp_path, odd):
    path = header_file(tmp_path, {"odd.weight": odd})
    with pytest.raises(ValueError) as error:
        open_safetensors(tmp_path)
    assert str(path) in str(error.value)
    assert "odd.weight" in str(error.value) or "F31" in str(error.value)


@pytest.mark.parametrize(
    ("header", "nbytes", "message"),
    [
        ({"a": entry(), "b": entry()}, 8, "tensor `[ab]`"),  # on the same bytes
        ({"a": entry(), "b": entry([12, 20])}, 20, "tensor `b`"),  # a hole before it
        ({"a": entry([0, 8]), "b": entry([4, 12])}, 12, "tensor `b`"),  # overlapping in part
        ({"a": entry()}, 12, "not fully covered"),
        ({"a": entry()}, 4, "not fully covered"),
        (f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}', 8, "has a twice"),
        ('{"a": ' + "[" * 100_000, 0, "recursion limit"),
    ],
)
def test_tensors_that_share_or_miss_bytes_or_names(tmp_path, header, nbytes, message):
    path = header_file(tmp_path, header, nbytes)
    with pytest.raises(ValueError, match=message) as error:
        open_safetensors(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"weight_map": 5}', "[]", '{"weight_map": [1]}']
)
def test_an_index_of_an_odd_type_is_named(tmp_path, content):
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(content)
    with pytest.raises(
        ValueError, match=f'{STEM}.safetensors.index.json: needs JSON with a "weight'
    ):
        open_safetensors(tmp_path)
