"""One wrong number anywhere in a golden file must be seen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from m2dit_jax.tools.parity.files import COGVIDEOX, golden_files, run_checks
from m2dit_jax.tools.parity.golden import Case
from m2dit_jax.tools.parity.models import ReferenceModels

DPM = "pipelines/fixed_5b_s5_dpm.npz"
EXTENSION = "pipelines/extend_2b.npz"
TRAINING = "training/5b_cond.npz"
# The arrays that a file's computation starts from; all others are compared.
INPUTS = {
    "attention_mask.npz": (
        "hidden_states",
        "encoder_hidden_states",
        "rope_cos",
        "rope_sin",
        "num_scenes",
        "text_len_per_scene",
        "video_tokens_per_scene",
    ),
    DPM: ("initial_latents", "noise_draws"),
    EXTENSION: ("video_conds", "rand_posterior", "rand_cond_noise", "rand_initial_latents"),
    "schedulers.npz": (
        *(f"{name}_{array}" for name in ("5b", "2b") for array in ("x0", "noise", "timesteps")),
        *(
            f"{name}_dpm{steps}_noise_{which}"
            for name in ("5b", "2b")
            for steps in (7, 20, 50)
            for which in ("first_draw", "used")
        ),
        "oddcount_num_inference_steps",
    ),
    "t5.npz": ("short_input_ids", "mid_input_ids", "long_input_ids", "random_input_ids"),
    TRAINING: ("latents", "noise", "timesteps", "prompt_embeds", "num_scenes"),
    "transformer/cond_5b_n3.npz": (
        "hidden_states",
        "encoder_hidden_states",
        "timestep",
        "timestep_conditioning",
        "num_scenes",
    ),
    "transformer/inter_5b_n3.npz": (
        "hidden_states",
        "encoder_hidden_states",
        "timestep",
        "num_scenes",
    ),
    "transformer/fwd_2b_n2short.npz": (
        "hidden_states",
        "encoder_hidden_states",
        "timestep",
        "num_scenes",
    ),
    "transformer/rope.npz": tuple(
        f"{kind}{number}_{array}"
        for kind, count in (("linspace", 5), ("slice", 2))
        for number in range(count)
        for array in ("args", "rows")
    ),
    "vae/decode_5b_l2.npz": ("latents",),
    "vae/encode_5b_f13.npz": ("video", "eps"),
}
# Where the first number has no effect in the reference either, one that has.
PLACES = {
    (TRAINING, "noise"): -1,  # given scenes are clean
    ("schedulers.npz", "5b_timesteps"): -2,  # the last one is that of pure noise
}
_SLOW = ("transformer/inter_5b_n3.npz", "transformer/fwd_2b_n2short.npz")  # compiled at each run

Check = Callable[..., list[Case]]


@pytest.fixture(scope="module")
def models(golden) -> ReferenceModels:
    return ReferenceModels(golden)


@pytest.fixture
def stage(golden, tmp_path) -> Callable[[str], Path]:
    """Copies a golden file, with the parts that belong to it, to a folder of its own."""

    def copy(name: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        stem = Path(name).stem
        for part in (golden / name).parent.glob(f"{stem}*"):
            if part.is_file():
                shutil.copyfile(part, (tmp_path / name).with_name(part.name))
        return tmp_path / name

    return copy


@pytest.fixture
def check(stage, tmp_path, models) -> Check:
    """The cases of a golden file some of whose arrays are replaced."""

    def run(name: str, **changed: np.ndarray) -> list[Case]:
        path = stage(name)
        if changed:
            np.savez(path, **(arrays_of(path) | changed))
        [kind] = golden_files(tmp_path)[0].values()
        return list(run_checks(tmp_path, {name: kind}, models))

    return run


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def with_one_wrong(array: np.ndarray, place: int) -> np.ndarray:
    wrong = array.copy()
    wrong.flat[place] = not wrong.flat[place] if wrong.dtype == bool else wrong.flat[place] + 1
    return wrong


def failures(cases: list[Case]) -> set[str]:
    return {case.case for case in cases if not case.passed}


def test_every_kind_of_npz_file_is_tried(golden):
    names, unknown = golden_files(golden)
    assert not unknown
    assert {names[name] for name in INPUTS} == {
        kind for kind, (pattern, _) in COGVIDEOX.checks.items() if pattern.endswith("npz")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("place", [0, -1])
def test_each_output_has_a_case_that_fails_if_one_number_is_wrong(golden, check, name, place):
    arrays = arrays_of(golden / name)
    outputs = arrays.keys() - INPUTS[name]
    if place == 0:  # these begin with inputs: the first sample, the size of a grid
        outputs = {a for a in outputs if not a.endswith("_trajectory") and a != "crop_table"}
    failed = failures(check(name, **{a: with_one_wrong(arrays[a], place) for a in outputs}))
    unseen = {a for a in outputs if not any(a in case.split(":")[1] for case in failed)}
    assert not unseen
    assert outputs


@pytest.mark.parametrize(
    ("name", "array"), [(n, a) for n in INPUTS if n not in _SLOW for a in INPUTS[n]]
)
def test_a_wrong_number_in_an_input_is_seen(golden, check, name, array):
    values = arrays_of(golden / name)[array]
    wrong = with_one_wrong(values, PLACES.get((name, array), 0))
    assert failures(check(name, **{array: wrong}))


@pytest.mark.parametrize("name", _SLOW)
def test_a_wrong_number_in_the_states_of_a_slow_file_is_seen(golden, check, name):
    wrong = with_one_wrong(arrays_of(golden / name)["encoder_hidden_states"], -1)
    assert failures(check(name, encoder_hidden_states=wrong))


@pytest.mark.parametrize("name", [name for name in INPUTS if name not in _SLOW])
def test_unchanged_files_pass(check, name):
    cases = check(name)
    assert cases
    assert not failures(cases)


def test_draws_that_the_reference_does_not_use_are_numbers_at_least(golden, check):
    # Second-order steps draw twice and use the second draw; here the second step's first draw.
    draws = arrays_of(golden / DPM)["noise_draws"]
    draws[1] += 1
    assert not failures(check(DPM, noise_draws=draws))
    draws[1, 0, 0, 0, 0, 0] = np.nan
    failed = {case.case: case for case in check(DPM, noise_draws=draws) if not case.passed}
    assert "noise_draws has numbers that are not finite" in failed[DPM].note


def test_a_draw_too_many_is_seen(golden, check):
    draws = arrays_of(golden / DPM)["noise_draws"]
    assert f"{DPM}:noise_draws (number)" in failures(
        check(DPM, noise_draws=np.concatenate([draws, draws[-1:]]))
    )


def test_a_timestep_beyond_the_schedule_is_seen(golden, check):
    # JAX would take the last one in its place.
    timesteps = arrays_of(golden / TRAINING)["timesteps"]
    timesteps[0] = 1000
    [case] = [case for case in check(TRAINING, timesteps=timesteps) if not case.passed][:1]
    assert "outside 0..999" in case.note


@pytest.mark.parametrize(
    "name", ["schedulers.npz", "transformer/rope.npz", "vae/encode_5b_f13.npz", DPM]
)
def test_an_unknown_array_is_seen(check, name):
    assert failures(check(name, surprise=np.zeros(3))) == {f"{name}:surprise"}


@pytest.mark.parametrize(
    ("name", "array"),
    [("t5.npz", "mid_last_hidden_state"), ("vae/decode_5b_l2.npz", "video_auto_split")],
)
def test_a_missing_array_is_seen(stage, tmp_path, models, name, array):
    path = stage(name)
    arrays = arrays_of(path)
    del arrays[array]
    np.savez(path, **arrays)
    assert failures(_cases(tmp_path, name, models))


def test_a_damaged_file_is_seen(golden, stage, tmp_path, models):
    path = stage("t5.npz")
    path.write_bytes(path.read_bytes()[:5000])
    [case] = run_checks(tmp_path, {"t5.npz": "text encoder"}, models)
    assert not case.passed
    assert "t5.npz: not a readable npz file" in case.note


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"guidance_scale": 6.5}, "guidance_per_step"),
        ({"num_inference_steps": 6}, "timesteps"),
        ({"use_dynamic_cfg": True}, "guidance_per_step"),
        ({"negative_prompt": "rain"}, "negative_prompt_embeds"),
        ({"max_sequence_length": 13}, "max_sequence_length"),
        ({"height": 64}, "latent shape"),
        ({"width": 32}, "latent shape"),
        ({"num_frames": 13}, "latent shape"),
    ],
)
def test_a_wrong_argument_of_a_pipeline_is_seen(stage, tmp_path, models, changes, seen):
    path = stage(DPM).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert any(seen in case for case in failures(list(_cases(tmp_path, DPM, models))))


def test_a_wrong_word_in_a_prompt_is_seen(stage, tmp_path, models):
    path = stage(DPM).with_suffix(".json")
    arguments = json.loads(path.read_text())
    arguments["prompt"][-1] = arguments["prompt"][-1].replace("cat", "river")
    path.write_text(json.dumps(arguments))
    assert f"{DPM}:prompt_embeds" in failures(_cases(tmp_path, DPM, models))


def test_a_pipeline_without_its_arguments_is_seen(stage, tmp_path, models):
    stage(DPM).with_suffix(".json").unlink()
    [case] = [case for case in _cases(tmp_path, DPM, models) if case.case == DPM]
    assert not case.passed
    assert "No such file" in case.note


@pytest.mark.parametrize("part", ["grads", "params_after_adamw"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_wrong_number_in_any_tensor_after_a_training_step_is_seen(
    golden, stage, tmp_path, models, part, place
):
    name = f"{TRAINING.removesuffix('.npz')}_{part}.safetensors"
    tensors = load_file(golden / name)
    for tensor in list(tensors)[::16]:
        stage(TRAINING)
        wrong = tensors[tensor].copy()
        wrong.flat[place] += 1e-2
        save_file(tensors | {tensor: wrong}, tmp_path / name)
        [case] = [case for case in _cases(tmp_path, TRAINING, models) if case.case == name]
        assert not case.passed
        assert case.note == tensor


def test_a_missing_or_unknown_gradient_is_seen(golden, stage, tmp_path, models):
    name = "training/5b_cond_grads.safetensors"
    tensors = load_file(golden / name)
    first = next(iter(tensors))
    for changed in (
        {key: value for key, value in tensors.items() if key != first},
        tensors | {"surprise": np.zeros(3, np.float32)},
        tensors | {first: np.zeros((2, 2), np.float32)},
    ):
        stage(TRAINING)
        save_file(changed, tmp_path / name)
        assert name in failures(_cases(tmp_path, TRAINING, models))


def test_training_without_gradients_is_seen(stage, tmp_path, models):
    stage(TRAINING).with_name("5b_cond_grads.safetensors").unlink()
    assert TRAINING in failures(_cases(tmp_path, TRAINING, models))


@pytest.mark.parametrize(
    ("folder", "file", "index"),
    [
        ("text_encoder_sharded", "model-00002-of-00002.safetensors", "model"),
        (
            "transformer_sharded",
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model",
        ),
    ],
)
def test_a_wrong_number_in_a_shard_is_seen(golden, tmp_path, models, folder, file, index):
    whole = folder.removesuffix("_sharded")
    for name in (whole, folder):
        shutil.copytree(golden / "pipe_5b" / name, tmp_path / "pipe_5b" / name)
    name = f"pipe_5b/{folder}/{index}.safetensors.index.json"
    names = {name: "sharded weights"}
    assert [case.passed for case in run_checks(tmp_path, names, models)] == [True]
    path = tmp_path / "pipe_5b" / folder / file
    tensors = load_file(path)
    last = sorted(tensors)[-1]
    save_file(tensors | {last: with_one_wrong(tensors[last], -1)}, path)
    [case] = run_checks(tmp_path, names, models)
    assert not case.passed
    assert case.note == f"differ: {last}"
    path.unlink()
    [case] = run_checks(tmp_path, names, models)
    assert not case.passed


@pytest.mark.parametrize(
    ("folder", "stem", "name"),
    [
        ("transformer", "diffusion_pytorch_model", "transformer/cond_5b_n3.npz"),
        ("text_encoder", "model", "t5.npz"),
    ],
)
def test_a_wrong_weight_is_seen(golden, stage, tmp_path, folder, stem, name):
    shutil.copytree(
        golden / "pipe_5b", tmp_path / "pipe_5b", ignore=shutil.ignore_patterns("*_sharded", "vae")
    )
    shutil.copytree(golden / "pipe_5b/vae", tmp_path / "pipe_5b/vae")
    path = tmp_path / "pipe_5b" / folder / f"{stem}.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(("ff.net.0.proj.bias", "wi_0.weight")))
    save_file(tensors | {key: with_one_wrong(tensors[key], -1)}, path)
    stage(name)
    assert failures(_cases(tmp_path, name, ReferenceModels(tmp_path)))


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda golden: golden["records"][3]["ids"].__setitem__(0, 99), "records[3].ids"),
        (lambda golden: golden["records"][3].update(text="another"), "records[3].ids"),
        (lambda golden: golden.update(eos_id=7), "eos_id"),
        (lambda golden: golden.update(surprise=7), "surprise"),
        (lambda golden: golden["records"][0].update(ids_max12=[1]), "records[0].ids_max12"),
    ],
)
def test_a_wrong_token_is_seen(golden, tmp_path, models, change, seen):
    content = json.loads((golden / "tokenizer_golden.json").read_text())
    change(content)
    (tmp_path / "tokenizer_golden.json").write_text(json.dumps(content))
    failed = failures(_cases(tmp_path, "tokenizer_golden.json", models))
    assert f"tokenizer_golden.json:{seen}" in failed


def test_a_manifest_that_lists_something_else_is_seen(golden, tmp_path, models):
    manifest = {
        "t5.npz": {"short_input_ids": [[5, 12], "int64"]},
        "schedulers.npz": {"5b_x0": [[1], "float32"]},
        "gone.npz": {},
    }
    for name in ("t5.npz", "schedulers.npz"):
        shutil.copyfile(golden / name, tmp_path / name)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    names = {"manifest.json": "manifest"}
    cases = list(run_checks(tmp_path, names, models))
    assert [(case.case, case.passed) for case in cases] == [
        ("manifest.json:t5.npz", True),
        ("manifest.json:schedulers.npz", False),
        ("manifest.json:gone.npz", False),
    ]


def _cases(root: Path, name: str, models: ReferenceModels) -> list[Case]:
    kind = golden_files(root)[0][name]
    return list(run_checks(root, {name: kind}, models))
