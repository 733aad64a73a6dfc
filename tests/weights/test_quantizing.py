import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from m2dit_jax.models.families import DEFAULT
from m2dit_jax.models.quantized import FORMS, SCALE, quantize
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.mapping import flatten
from m2dit_jax.weights.networks import ORBAX, load_params, load_tensors, open_leaves
from m2dit_jax.weights.orbax_files import write_orbax
from m2dit_jax.weights.quantizing import FLOAT32, quantized_leaves
from tests.weights.tiny_models import BFLOAT16, CONFIGS, tiny_network

NETWORKS = DEFAULT.networks


def shapes(kind, form):
    network = NETWORKS[kind]
    return network.shapes(network.config(CONFIGS[kind]), form)[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders in bfloat16; of the transformer one in Orbax form too."""
    root = tmp_path_factory.mktemp("folders")
    made = {kind: tiny_network(root / kind, kind, BFLOAT16) for kind in NETWORKS if kind != "vae"}
    kind = "transformer"
    made["orbax"] = root / "orbax"
    made["orbax"].mkdir()
    (made["orbax"] / "config.json").write_text((made[kind] / "config.json").read_text())
    abstract = NETWORKS[kind].abstract(CONFIGS[kind])
    write_orbax(made["orbax"] / ORBAX, open_leaves(made[kind], NETWORKS[kind], abstract))
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["transformer", "text_encoder", "orbax"])
def test_folders_are_quantised_when_they_are_read(folders, name, form):
    kind = "transformer" if name == "orbax" else name
    abstract = shapes(kind, form)
    floats = flatten(load_params(folders[name], NETWORKS[kind], shapes(kind, None)))
    loaded = load_params(folders[name], NETWORKS[kind], abstract, BFLOAT16, form)
    assert jax.tree.structure(loaded) == jax.tree.structure(abstract)
    in_8_bits = 0
    for path, x in flatten(loaded).items():
        like = flatten(abstract)[path]
        assert x.shape == like.shape
        if path.endswith(SCALE):
            kernel = path.replace(SCALE, "kernel")
            expected = quantize(np.asarray(floats[kernel]), form)
            np.testing.assert_array_equal(flatten(loaded)[kernel], expected[0])
            np.testing.assert_array_equal(x, expected[1])
            assert x.dtype == jnp.float32 and flatten(loaded)[kernel].dtype.itemsize == 1
            in_8_bits += 1
        elif path.replace("kernel", SCALE) not in flatten(abstract):
            assert x.dtype == jnp.bfloat16
            np.testing.assert_array_equal(x, floats[path])
    assert in_8_bits == {"transformer": 8, "text_encoder": 14}[kind]


def test_a_run_is_quantised_layer_by_layer(folders):
    kind, form = "transformer", "int8"
    abstract, arrays = shapes(kind, form), {}
    stored = load_params(folders[kind], NETWORKS[kind], shapes(kind, None))
    for name, x in flatten(stored).items():
        values = np.asarray(x, np.float32)
        arrays[name] = Tensor(x.shape, FLOAT32, lambda values=values: values)
    loaded = load_tensors(folders[kind], arrays, abstract, BFLOAT16, form)
    expected = load_params(folders[kind], NETWORKS[kind], abstract, BFLOAT16, form)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    arrays["proj_out.bias"] = Tensor((8,), FLOAT32, lambda: np.full(8, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"not finite.*proj_out\.bias"):
        load_tensors(folders[kind], arrays, abstract, BFLOAT16, form)


def test_a_piece_is_read_once_though_scales_are_an_array_of_their_own(folders):
    kind, reads = "transformer", []
    leaves = open_leaves(folders[kind], NETWORKS[kind], shapes(kind, None), FLOAT32)
    name = "blocks.mlp.linear_1.kernel"
    counted = leaves[name].pieces[0]

    def read():
        reads.append(name)
        return counted.read()

    pieces = (Tensor(counted.shape, FLOAT32, read), *leaves[name].pieces[1:])
    leaves[name] = type(leaves[name])(pieces, True)
    made = quantized_leaves(leaves, flatten(shapes(kind, "int8")), "int8", None)
    kernel, scale = made[name].read(), made[name.replace("kernel", SCALE)].read()
    assert kernel.shape == (3, 16, 64) and scale.shape == (3, 64) and len(reads) == 1
    assert flatten_dict(shapes(kind, "int8"))[tuple(name.split("."))].dtype == kernel.dtype
