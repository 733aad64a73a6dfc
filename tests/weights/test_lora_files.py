import json
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from m2dit_jax.models.families import DEFAULT
from m2dit_jax.models.lora import merge_adapters
from m2dit_jax.weights.lora_files import (
    LoraChoice,
    add_lora,
    lora_digest,
    read_lora,
    write_lora,
)
from m2dit_jax.weights.mapping import expected_parts, flatten, leaves_from_tensors
from tests.weights.tiny_models import BFLOAT16, CONFIGS, tiny_tensors

NETWORK = DEFAULT.transformer
ABSTRACT = NETWORK.abstract(CONFIGS["transformer"])
PARTS = expected_parts(NETWORK.rules, ABSTRACT, NETWORK.window(CONFIGS["transformer"]))
WIDTH, LAYERS = 16, 3
TO_Q = "transformer_blocks.1.attn1.to_q"


def some_adapters(rank=2):
    rng = np.random.default_rng(0)
    sizes = {"attention.to_q": (WIDTH, WIDTH), "mlp.linear_2": (4 * WIDTH, WIDTH)}
    return unflatten_dict(
        {
            ("blocks", *layer.split("."), "lora", name): rng.normal(
                size=(LAYERS, inputs, rank) if name == "a" else (LAYERS, rank, outputs)
            ).astype(np.float32)
            for layer, (inputs, outputs) in sizes.items()
            for name in ("a", "b")
        }
    )


def pair_of(layer="attention.to_q", number=1):
    flat: dict[Any, Any] = flatten_dict(some_adapters())
    return [flat[("blocks", *layer.split("."), "lora", name)][number] for name in ("a", "b")]


def same(found, expected):
    assert flatten(found).keys() == flatten(expected).keys()
    for name, leaf in flatten(found).items():
        np.testing.assert_allclose(leaf, flatten(expected)[name], rtol=1e-6)


def test_what_is_written_is_read_with_its_scale_in_b(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    adapters = some_adapters()
    write_lora(path, adapters, 0.25, PARTS)
    tensors = load_file(path)
    assert len(tensors) == 2 * 2 * LAYERS
    a, b = pair_of()
    np.testing.assert_array_equal(tensors[f"transformer.{TO_Q}.lora_A.weight"], a.T)
    np.testing.assert_array_equal(tensors[f"transformer.{TO_Q}.lora_B.weight"], 0.25 * b.T)
    flat: dict[Any, Any] = flatten_dict(adapters)
    scaled = {k: 0.25 * x if k[-1] == "b" else x for k, x in flat.items()}
    same(read_lora(LoraChoice(path), PARTS), unflatten_dict(scaled))
    same(read_lora(LoraChoice(tmp_path), PARTS), unflatten_dict(scaled))


@pytest.mark.parametrize(
    ("a_name", "b_name", "alpha"),
    [
        (f"transformer.{TO_Q}.lora_A.weight", f"transformer.{TO_Q}.lora_B.weight", ""),
        (
            f"base_model.model.{TO_Q}.lora_A.default.weight",
            f"base_model.model.{TO_Q}.lora_B.default.weight",
            "json",
        ),
        (
            f"base_model.model.transformer.{TO_Q}.lora_A.weight",
            f"base_model.model.transformer.{TO_Q}.lora_B.weight",
            "header",
        ),
        (
            f"diffusion_model.{TO_Q}.lora_down.weight",
            f"diffusion_model.{TO_Q}.lora_up.weight",
            f"diffusion_model.{TO_Q}.alpha",
        ),
        (
            f"lora_unet_{TO_Q.replace('.', '_')}.lora_down.weight",
            f"lora_unet_{TO_Q.replace('.', '_')}.lora_up.weight",
            f"lora_unet_{TO_Q.replace('.', '_')}.alpha",
        ),
    ],
)
def test_the_forms_of_others(a_name, b_name, alpha, tmp_path):
    a, b = pair_of()
    tensors = {a_name: np.ascontiguousarray(a.T), b_name: np.ascontiguousarray(b.T)}
    metadata = {"format": "pt"}
    if alpha.endswith("alpha"):
        tensors[alpha] = np.array(1.0, np.float32)
    elif alpha == "header":
        metadata["lora_adapter_metadata"] = json.dumps({"transformer.lora_alpha": 1})
    elif alpha == "json":
        (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1, "r": 2}')
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path, metadata=metadata)
    found = flatten(read_lora(LoraChoice(path), PARTS))
    assert found.keys() == {f"blocks.attention.to_q.lora.{name}" for name in "ab"}
    scale = 0.5 if alpha else 1.0  # alpha 1, rank 2
    np.testing.assert_array_equal(found["blocks.attention.to_q.lora.a"][1], a)
    np.testing.assert_array_equal(found["blocks.attention.to_q.lora.b"][1], scale * b)
    for number in (0, 2):
        assert not found["blocks.attention.to_q.lora.b"][number].any()


def test_bfloat16_is_read_and_what_is_not_finite_refused(tmp_path):
    path = tmp_path / "l.safetensors"
    a, b = pair_of()
    matrices = {"A": a.T.astype(BFLOAT16), "B": b.T.astype(BFLOAT16)}
    tensors = {f"{TO_Q}.lora_{n}.weight": np.ascontiguousarray(x) for n, x in matrices.items()}
    save_file(tensors, path)
    found = flatten(read_lora(LoraChoice(path), PARTS))
    np.testing.assert_array_equal(found["blocks.attention.to_q.lora.a"][1], matrices["A"].T)
    tensors[f"{TO_Q}.lora_B.weight"][0, 0] = np.nan
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"l.safetensors: 1 of 64 .* {TO_Q}.lora_B.weight"):
        read_lora(LoraChoice(path), PARTS)


def test_ranks_may_differ(tmp_path):
    path = tmp_path / "l.safetensors"
    a, b = pair_of()
    first = TO_Q.replace(".1.", ".0.")
    save_file(
        {
            f"{TO_Q}.lora_A.weight": np.ascontiguousarray(a.T),
            f"{TO_Q}.lora_B.weight": np.ascontiguousarray(b.T),
            f"{first}.lora_A.weight": np.ascontiguousarray(a.T[:1]),
            f"{first}.lora_B.weight": np.ascontiguousarray(b.T[:, :1]),
        },
        path,
    )
    found = flatten(read_lora(LoraChoice(path), PARTS))
    a_found, b_found = (found[f"blocks.attention.to_q.lora.{name}"] for name in "ab")
    np.testing.assert_allclose(a_found[0] @ b_found[0], a[:, :1] @ b[:1], rtol=1e-6)
    np.testing.assert_allclose(a_found[1] @ b_found[1], a @ b, rtol=1e-6)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"text_encoder.q.lora_A.weight": (2, 6)}, "1 other tensors: text_encoder.q.lora_A.weight"),
        ({f"{TO_Q}.dora_scale": (16,)}, f"1 other tensors: {TO_Q}.dora_scale"),
        ({f"{TO_Q}.lora_A.weight": (2, 16)}, f"{TO_Q} .found .'a': .2, 16.., needs"),
        (
            {f"{TO_Q}.lora_A.weight": (2, 17), f"{TO_Q}.lora_B.weight": (16, 2)},
            "needs a of .rank, 16. and b of .16, rank.",
        ),
        ({}, "needs low-rank matrices of this transformer's layers, found none"),
    ],
)
def test_what_does_not_fit_is_named(tensors, message, tmp_path):
    path = tmp_path / "l.safetensors"
    save_file({name: np.ones(shape, np.float32) for name, shape in tensors.items()}, path)
    with pytest.raises(ValueError, match=message) as error:
        read_lora(LoraChoice(path), PARTS)
    assert str(error.value).startswith(str(path))


def test_what_is_no_file_of_adapters(tmp_path):
    with pytest.raises(ValueError, match="no LoRA there; needs a .safetensors file, or a folder"):
        LoraChoice(tmp_path).file()
    (tmp_path / "l.bin").touch()
    with pytest.raises(ValueError, match="needs a .safetensors file: pickled ones can run code"):
        LoraChoice(tmp_path / "l.bin").file()
    (tmp_path / "l.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="l.safetensors: .*damaged"):
        read_lora(LoraChoice(tmp_path / "l.safetensors"), PARTS)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("dir/a:-1", "dir/a", -1.0),
        ("C:/a.safetensors", "C:/a.safetensors", 1.0),
        ("C:/a.safetensors:0.5", "C:/a.safetensors", 0.5),
    ],
)
def test_files_with_weights(text, path, weight):
    choice = LoraChoice.parse(text)
    assert (choice.path.as_posix(), choice.weight) == (path, weight)


@pytest.mark.parametrize("weight", ["x", "nan", "inf", "101", ""])
def test_weights_that_are_none(weight):
    with pytest.raises(ValueError, match="needs FILE or FILE:WEIGHT"):
        LoraChoice.parse(f"a.safetensors:{weight}")


def test_adapters_are_added_layer_by_layer_and_count_by_their_weight(tmp_path):
    leaves = leaves_from_tensors(PARTS, tiny_tensors("transformer"))
    before = unflatten_dict({tuple(n.split(".")): leaf.read() for n, leaf in leaves.items()})
    add_lora(leaves, some_adapters(), 0.5)
    expected = flatten(merge_adapters(before, some_adapters(), 0.5))
    for name, leaf in leaves.items():
        np.testing.assert_allclose(leaf.read(), expected[name], rtol=1e-5, atol=1e-6)
    changed = [n for n in leaves if not np.array_equal(expected[n], flatten(before)[n])]
    assert set(changed) == {"blocks.attention.to_q.kernel", "blocks.mlp.linear_2.kernel"}


def test_the_digest_tells_files_and_weights_apart(tmp_path):
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": np.ones(2, np.float32)}, one)
    save_file({"x": np.zeros(2, np.float32)}, other)
    digests = {
        lora_digest(LoraChoice(path, weight)) for path in (one, other) for weight in (1.0, 0.5)
    }
    assert len(digests) == 4
