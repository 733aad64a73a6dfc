import json
import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.weights.networks import read_json
from m2dit_jax.weights.released import ReleasedModel, load_transformer

CONFIGS = (
    "transformer/config.json",
    "text_encoder/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
)


@pytest.fixture(scope="module")
def model(golden) -> ReleasedModel:
    return ReleasedModel(golden / "pipe_5b")


@pytest.fixture
def folder(golden, tmp_path):
    """The configs of a model, without its weights."""
    for name in CONFIGS:
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(golden / "pipe_5b" / name, tmp_path / "model" / name)
    return tmp_path / "model"


@pytest.fixture
def change(folder):
    """Changes keys of a config; None removes them."""

    def run(name, **changes):
        config = json.loads((folder / name).read_text()) | changes
        config = {key: value for key, value in config.items() if value is not None}
        (folder / name).write_text(json.dumps(config))

    return run


def apply(network: LoadedNetwork, *args) -> np.ndarray:
    graphdef, params = network
    run = jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args))
    return np.asarray(run(params, *args), np.float32)


def dtypes(network: LoadedNetwork) -> set[np.dtype]:
    return {leaf.dtype for leaf in jax.tree.leaves(network.params)}


def relative_error(ours, expected) -> float:
    """Root of the mean square of the difference, over that of the values."""
    return float(np.sqrt(np.mean((ours - expected) ** 2) / np.mean(expected**2)))


def test_configs_are_read_without_weights(folder):
    model = ReleasedModel(folder)
    assert model.transformer_config.rotary
    assert model.text_encoder_config.d_model == 32
    assert model.vae_config.scaling_factor == 0.7
    assert model.schedule.snr_shift == 1.0
    assert model.sampler == "ddim"
    assert (model.text_length, model.frames, model.height, model.width) == (12, 9, 64, 96)


def test_sizes_that_a_config_does_not_name_are_those_of_cogvideox(folder, change):
    sizes = ("sample_frames", "sample_height", "sample_width", "max_text_seq_length")
    change("transformer/config.json", **dict.fromkeys(sizes))
    model = ReleasedModel(folder)
    assert (model.text_length, model.frames, model.height, model.width) == (226, 49, 480, 720)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder"):
        ReleasedModel(tmp_path / "absent")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_missing_config_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file; a model folder has model_index"):
        ReleasedModel(folder)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[1, 2]", "needs a JSON object, found list"),
        ("\udcff", "not readable as JSON"),
    ],
)
def test_a_broken_config_is_named(folder, name, content, message):
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        ReleasedModel(folder)


def test_a_folder_in_place_of_a_config_is_named(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(
        ValueError, match=r"config.json: not readable \(.*is a folder, pipe or device"
    ):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (CONFIGS[0], {"attn_msk_version": 1}, "transformer config: attn_msk_version must be 2"),
        (CONFIGS[1], {"feed_forward_proj": "relu"}, "text_encoder config: feed_forward_proj"),
        (CONFIGS[1], {"d_kv": None}, "text_encoder config: d_kv is missing"),
        (CONFIGS[2], {"use_quant_conv": True}, "vae config: use_quant_conv"),
        (CONFIGS[3], {"prediction_type": "epsilon"}, "scheduler config: prediction_type"),
        (CONFIGS[3], {"timestep_spacing": "karras"}, "timestep_spacing: found 'karras'"),
        (CONFIGS[3], {"_class_name": "PNDMScheduler"}, "scheduler config: _class_name"),
        (
            CONFIGS[0],
            {"text_embed_dim": 64},
            "text_embed_dim of transformer and d_model of text_encoder differ: 64 and 32",
        ),
        (
            CONFIGS[2],
            {"latent_channels": 8},
            "in_channels of transformer and latent_channels of vae differ: 4 and 8",
        ),
    ],
)
def test_models_that_do_not_exist_here_are_refused_by_folder(
    folder, change, name, changes, message
):
    change(name, **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}(/{name})?: .*{message}"):
        ReleasedModel(folder)


def test_missing_weights_are_named_when_they_are_needed(folder):
    model = ReleasedModel(folder)
    for name, load in (
        ("text_encoder", model.text_encoder),
        ("transformer", model.transformer),
        ("vae", model.vae),
    ):
        with pytest.raises(ValueError, match=f"/{name}: needs .* found no weights"):
            load()


def test_weights_that_do_not_fit_the_config_are_refused(golden, folder, change):
    weights = "text_encoder/model.safetensors"
    shutil.copyfile(golden / "pipe_5b" / weights, folder / weights)
    change("text_encoder/config.json", d_ff=96)
    with pytest.raises(ValueError, match=r"/text_encoder.*wi_0"):
        ReleasedModel(folder).text_encoder()


def test_the_tokenizer_is_the_reference_s(golden, model):
    records = json.loads((golden / "tokenizer_golden.json").read_text())["records"]
    tokenizer = model.tokenizer()
    for record in records[:5]:
        assert tokenizer(record["text"])["input_ids"] == record["ids"]


def test_a_missing_or_damaged_tokenizer_is_named(golden, folder):
    with pytest.raises(ValueError, match="/tokenizer: not a T5 tokenizer"):
        ReleasedModel(folder).tokenizer()
    shutil.copytree(golden / "pipe_5b/tokenizer", folder / "tokenizer")
    (folder / "tokenizer/spiece.model").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="/tokenizer: not a T5 tokenizer"):
        ReleasedModel(folder).tokenizer()


@pytest.mark.slow
def test_unrolled_blocks_give_the_same(model):
    args = latents, text, timesteps = transformer_inputs(model)
    np.testing.assert_allclose(
        apply(model.transformer(), *args), apply(model.transformer(scan=False), *args), atol=2e-5
    )
    assert apply(model.transformer(), latents, text, timesteps).shape == latents.shape


def test_a_transformer_can_stand_alone(golden, model):
    folder = golden / "pipe_5b/transformer"
    loaded = load_transformer(folder, model.family, model.transformer_config)
    for one, other in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(model.transformer().params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def transformer_inputs(model):
    keys = jax.random.split(jax.random.key(0), 2)
    latents = jax.random.normal(keys[0], (1, 2, 2, 4, 6, model.transformer_config.channels))
    text = jax.random.normal(keys[1], (1, 2, 12, model.transformer_config.text_dim))
    return latents, text, jnp.array([[500, 500]])


# bfloat16 has 8 bits: one rounding is an error of up to 0.4 %, on average 0.17 %.
BFLOAT16_ERRORS = (5e-4, 4e-2)


def test_bfloat16_weights_of_the_transformer_cost_little(model):
    args = transformer_inputs(model)
    half = model.transformer("bfloat16")
    assert dtypes(half) == {jnp.dtype(jnp.bfloat16)}
    error = relative_error(apply(half, *args), apply(model.transformer("float32"), *args))
    assert BFLOAT16_ERRORS[0] < error < BFLOAT16_ERRORS[1]


def test_bfloat16_weights_of_the_text_encoder_cost_little(model):
    ids = jax.random.randint(jax.random.key(0), (3, 12), 0, 400)
    half = model.text_encoder("bfloat16")
    assert dtypes(half) == {jnp.dtype(jnp.bfloat16)}
    error = relative_error(apply(half, ids), apply(model.text_encoder("float32"), ids))
    assert BFLOAT16_ERRORS[0] < error < BFLOAT16_ERRORS[1]


@pytest.mark.slow
def test_bfloat16_weights_of_the_vae_cost_little(model):
    latents = jax.random.normal(jax.random.key(0), (1, 2, 4, 4, 4))
    half, full = (model.vae(dtype) for dtype in ("bfloat16", "float32"))
    assert dtypes(half) == {jnp.dtype(jnp.bfloat16)}
    one, other = (np.asarray(nnx.merge(*vae).decode(latents)) for vae in (half, full))
    assert one.dtype == np.float32
    assert BFLOAT16_ERRORS[0] < relative_error(one, other) < BFLOAT16_ERRORS[1]


def with_patches(model: ReleasedModel, patch_size: int, patch_size_t: int) -> ReleasedModel:
    changed = object.__new__(ReleasedModel)
    changed.__dict__.update(model.__dict__)
    changed.transformer_config = replace(
        model.transformer_config, patch_size=patch_size, patch_size_t=patch_size_t
    )
    return changed


@settings(deadline=None, max_examples=200)
@given(
    frames=st.integers(-3, 120),
    height=st.integers(-3, 200),
    width=st.integers(-3, 200),
    patch_size=st.sampled_from([1, 2, 3]),
    patch_size_t=st.sampled_from([1, 2, 3]),
)
def test_sizes_divide_or_the_nearest_that_do_are_named(
    model, frames, height, width, patch_size, patch_size_t
):
    model = with_patches(model, patch_size, patch_size_t)
    try:
        shape = model.latent_shape(frames, height, width)
    except ValueError as error:
        message = str(error)
    else:
        # The smallest whole number of patches whose latent frames reach so far.
        assert shape[0] % patch_size_t == 0
        assert (shape[0] - patch_size_t - 1) * 4 + 1 < frames <= (shape[0] - 1) * 4 + 1
        assert (shape[1] * 8, shape[2] * 8) == (height, width)
        assert shape[1] % patch_size == shape[2] % patch_size == 0
        assert min(shape) >= 1
        assert shape[3] == 4
        return
    found = {}
    for problem in message.split("; "):
        if "frames" in problem:
            assert frames < 1
            found["frames"] = (1, 2)
            continue
        below, above = map(int, re.findall(r"nearest are (\d+) and (\d+)", problem)[0])
        name = next(name for name in ("height", "width") if name in problem)
        found[name] = (below, above)
        asked = {"height": height, "width": width}[name]
        assert below < asked < above or asked < below
    assert found
    sizes = {"frames": frames, "height": height, "width": width}
    for which in (0, 1):
        model.latent_shape(**(sizes | {name: near[which] for name, near in found.items()}))


@pytest.mark.parametrize(
    ("sizes", "shape"), [((9, 64, 96), (3, 8, 12, 4)), ((1, 16, 16), (1, 2, 2, 4))]
)
def test_the_shape_of_latents(model, sizes, shape):
    assert model.latent_shape(*sizes) == shape


def test_all_sizes_that_do_not_fit_are_named_at_once(model):
    with pytest.raises(ValueError) as error:
        model.latent_shape(0, 40, 100)
    assert str(error.value).removeprefix(f"{model.path}: ") == (
        "height 40 is not a multiple of 16, the nearest are 32 and 48; "
        "width 100 is not a multiple of 16, the nearest are 96 and 112; "
        "0 frames are too few, needs 1 or more"
    )


def test_added_positions_reach_no_further_than_in_training(golden):
    model = ReleasedModel(golden / "pipe_2b")
    assert model.latent_shape(9, 64, 96)[0] == 3
    for frames in (10, 13):
        with pytest.raises(ValueError, match=f"{frames} frames are more than the 9 per scene that"):
            model.latent_shape(frames, 64, 96)


def test_cogvideox_1_5_makes_its_81_frames_at_the_size_of_its_training(folder, change):
    # As in the released config: 300 latents are how far positions reach, not a picture's size.
    change("transformer/config.json", patch_size_t=2, sample_frames=81)
    change("transformer/config.json", sample_height=300, sample_width=300)
    change("vae/config.json", invert_scale_latents=True)
    model = ReleasedModel(folder)
    assert (model.frames, model.height, model.width) == (81, 768, 1360)
    assert model.latent_shape(model.frames, model.height, model.width) == (22, 96, 170, 4)
