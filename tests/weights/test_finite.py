import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.weights.finite import check_params
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.networks import load_params
from m2dit_jax.weights.safetensors_files import write_safetensors
from tests.weights.test_conversion import convert
from tests.weights.tiny_models import (
    BFLOAT16,
    CONFIGS,
    FLOAT32,
    NETWORKS,
    tiny_network,
    tiny_tensors,
)


def spoiled(folder, dtype, **places):
    """The folder of a text encoder with values of some tensors changed."""
    tiny_network(folder, "text_encoder", dtype)
    tensors = tiny_tensors("text_encoder", dtype)
    for name, value in places.items():
        values = tensors[name].read().copy()
        values.flat[1:3] = value
        tensors[name] = Tensor(values.shape, values.dtype, lambda values=values: values)
    write_safetensors(folder, "model", tensors, 2**60)
    return folder


def load(folder, dtype=None):
    network = NETWORKS["text_encoder"]
    return load_params(folder, network, network.abstract(CONFIGS["text_encoder"]), dtype)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, np.dtype(np.float16)])
@pytest.mark.parametrize("target", [None, FLOAT32, BFLOAT16])
def test_weights_that_are_no_numbers_are_refused_with_their_names(tmp_path, dtype, target):
    final, shared = "encoder.final_layer_norm.weight", "shared.weight"
    folder = spoiled(tmp_path / "t5", dtype, **{final: np.nan, shared: -np.inf})
    message = (
        rf"^{folder}: 4 of \d+ weights are not finite .*in "
        rf"({final} \(2\), {shared} \(2\)|{shared} \(2\), {final} \(2\));"
    )
    with pytest.raises(ValueError, match=message):
        load(folder, target)


def test_whole_weights_pass(tmp_path):
    load(tiny_network(tmp_path / "t5", "text_encoder", BFLOAT16), FLOAT32)


def test_orbax_weights_are_looked_at_too(tmp_path):
    """What an older version has converted without a look."""
    convert(tiny_network(tmp_path / "t5", "text_encoder"), tmp_path / "orbax")
    (tmp_path / "orbax" / "digests.json").unlink()
    import tensorstore as ts

    path = {"driver": "file", "path": f"{tmp_path}/orbax/params/"}
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": path, "path": "final_norm.scale/"},
    }
    ts.open(spec, open=True).result()[1].write(np.float32(np.nan)).result()
    with pytest.raises(ValueError, match=r"orbax: 1 of \d+ weights .* in final_norm.scale \(1\)"):
        load(tmp_path / "orbax")


def test_converting_refuses_them(tmp_path):
    folder = spoiled(tmp_path / "t5", FLOAT32, **{"shared.weight": np.inf})
    with pytest.raises(ValueError, match="2 of .* weights are not finite"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_on_devices(tmp_path):
    params = {"a": {0: jnp.ones(3)}, "b": jnp.array([1.0, jnp.nan], jnp.bfloat16)}
    with pytest.raises(ValueError, match=f"^{tmp_path}: 1 of 5 weights .* in b "):
        check_params(tmp_path, params)
    check_params(tmp_path, {"a": jnp.ones(3)})
