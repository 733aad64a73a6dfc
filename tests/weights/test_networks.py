from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from m2dit_jax.models.cogvideox.json_configs import text_encoder_config
from m2dit_jax.models.cogvideox.t5 import TextEncoder
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.weights.networks import ORBAX, load_params, open_leaves, read_config, torch_parts
from m2dit_jax.weights.orbax_files import write_orbax
from tests.weights.tiny_models import BFLOAT16, CONFIGS, FLOAT32, tiny_network

NETWORKS = DEFAULT.networks
_ROOT = Path(__file__).parents[2]
GOLDEN = next(
    (folder for folder in (_ROOT / "tests/golden", _ROOT / "../shared/golden") if folder.is_dir()),
    None,
)
ABSTRACT = {kind: network.abstract(CONFIGS[kind]) for kind, network in NETWORKS.items()}


def to_orbax(source, kind, target):
    target.mkdir()
    (target / "config.json").write_text((source / "config.json").read_text())
    write_orbax(target / ORBAX, open_leaves(source, NETWORKS[kind], ABSTRACT[kind]))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_both_forms_load_into_the_same_parameters(tmp_path, kind):
    source = tiny_network(tmp_path / "a", kind, BFLOAT16)
    orbax = to_orbax(source, kind, tmp_path / "b")
    loaded = [load_params(folder, NETWORKS[kind], ABSTRACT[kind]) for folder in (source, orbax)]
    assert jax.tree.structure(loaded[0]) == jax.tree.structure(ABSTRACT[kind])
    jax.tree.map(np.testing.assert_array_equal, *loaded)
    for leaf, like in zip(*map(jax.tree.leaves, (loaded[0], ABSTRACT[kind])), strict=True):
        assert (leaf.shape, leaf.dtype) == (like.shape, jnp.bfloat16)


def test_loaded_parameters_fit_the_model(tmp_path):
    kind = "text_encoder"
    source = tiny_network(tmp_path / "a", kind)
    params = load_params(source, NETWORKS[kind], ABSTRACT[kind])
    model = TextEncoder(text_encoder_config(CONFIGS[kind]), rngs=nnx.Rngs(0))
    nnx.update(model, params)
    shared = load_file(source / "model.safetensors")["shared.weight"]
    np.testing.assert_array_equal(model.embed.embedding[...], shared)
    assert model(jnp.zeros((1, 3), jnp.int32)).shape == (1, 3, CONFIGS[kind]["d_model"])


@pytest.mark.parametrize("form", ["diffusers", "orbax"])
def test_loading_casts_and_places_if_it_is_asked_to(tmp_path, form):
    kind = "transformer"
    folder = tiny_network(tmp_path / "a", kind)
    if form == "orbax":
        folder = to_orbax(folder, kind, tmp_path / "b")
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), ABSTRACT[kind]
    )
    params = load_params(folder, NETWORKS[kind], abstract, BFLOAT16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {BFLOAT16}
    assert {leaf.sharding for leaf in jax.tree.leaves(params)} == {sharding}


def test_a_config_of_another_size_is_a_mismatch_in_both_forms(tmp_path):
    kind = "transformer"
    source = tiny_network(tmp_path / "a", kind)
    wider = NETWORKS[kind].abstract(CONFIGS[kind] | {"text_embed_dim": 7, "num_layers": 4})
    with pytest.raises(ValueError) as caught:
        open_leaves(source, NETWORKS[kind], wider)
    message = str(caught.value)
    assert message.startswith(f"{source}: 24 missing: transformer_blocks.3.")
    assert "patch_embed.text_proj.weight (found (16, 6), needs (16, 7))" in message
    orbax = to_orbax(source, kind, tmp_path / "b")
    with pytest.raises(ValueError, match=r"norm_k\.bias \(found \(3, 16\), needs \(4, 16\)\)"):
        open_leaves(orbax, NETWORKS[kind], wider)


def test_the_patches_of_cogvideox_1_5_are_a_linear_layer(tmp_path):
    network = NETWORKS["transformer"]
    for patch_size_t, shape in {None: (16, 2, 2, 2), 2: (16, 16)}.items():
        config = CONFIGS["transformer"] | {"patch_size_t": patch_size_t}
        parts = torch_parts(network, config, network.abstract(config))
        assert parts["patch_embed.proj.weight"].shape == shape


@pytest.mark.parametrize(
    "name",
    [
        "pipe_5b/transformer",
        "pipe_5b/transformer_sharded",
        "pipe_5b/text_encoder",
        "pipe_5b/text_encoder_sharded",
        "pipe_5b/vae",
        "pipe_2b/transformer",
        "transformer_1_5",
    ],
)
def test_the_names_and_shapes_are_those_of_diffusers_and_transformers(name):
    folder = None if GOLDEN is None else GOLDEN / name
    if folder is None or not folder.is_dir():
        pytest.skip("needs ../shared/golden")
    network = next(network for kind, network in NETWORKS.items() if kind in name)
    leaves = open_leaves(folder, network, network.abstract(read_config(folder)))
    assert {leaf.dtype for leaf in leaves.values()} == {FLOAT32}


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("{", "not readable as JSON"),
        ("[]", "needs a JSON object, found list"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, text, message):
    folder = tiny_network(tmp_path / "a", "transformer")
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        open_leaves(folder, NETWORKS["transformer"], ABSTRACT["transformer"])
