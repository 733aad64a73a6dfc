"""Stage 1, its weights as a model folder, stage 2 from it, and again a folder, for diffusers.

On the tiny models of the reference; each step is a command as a user runs it.
"""

import json

import numpy as np
import pytest
import yaml

from m2dit_jax import convert, encode, sample, train
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.utils.media import write_mp4
from m2dit_jax.weights.networks import open_leaves, read_config
from m2dit_jax.weights.run_folder import find_weights
from m2dit_jax.weights.safetensors_files import open_safetensors

pytestmark = pytest.mark.e2e

# The transformer of pipe_5b, and a training that ends at once.
TINY = {
    **{"model.layers": 2, "model.heads": 2, "model.head_dim": 16, "model.time_dim": 24},
    **{"model.base_grid": "(3,4,6)", "data.channels": 4, "data.text_dim": 32},
    **{"data.text_length": 12, "data.scenes": 2, "data.frames": 5, "data.height": 32},
    **{"data.width": 48, "train.steps": 2, "train.batch_size": 2, "train.warmup_steps": 1},
    **{"train.learning_rate": 1e-2, "train.log_every": 1, "sample.steps": 2, "mesh.fsdp": 1},
}
PROMPTS = ["A striped cat waits.", "It runs."]


@pytest.fixture(scope="module")
def base(golden):
    return golden / "pipe_5b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base):
    """With the runs stage1 and stage2, and what convert writes of them, model1 and model2."""
    folder = tmp_path_factory.mktemp("stages")
    rng = np.random.default_rng(0)
    for name in "ab":
        frames = rng.integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)
        write_mp4(folder / f"{name}.mp4", frames, 8)
    scenes = [{"video": f"{name}.mp4", "caption": f"scene {name}"} for name in "ab"]
    (folder / "stories.jsonl").write_text(json.dumps({"name": "story", "scenes": scenes}) + "\n")
    done(
        encode.main(
            [
                *(f"--manifest={folder}/stories.jsonl", f"--output={folder}/latents"),
                *(f"--codec={base}", "--frames=5", "--height=32", "--width=48", "--workers=1"),
            ]
        )
    )
    done(stage(folder, "pretrain_5b", base, "stage1"))
    done(convert.main([f"--source={folder}/stage1", f"--output={folder}/model1"]))
    done(stage(folder, "finetune_5b", folder / "model1", "stage2", {"model.mask": "full"}))
    done(convert.main([f"--source={folder}/stage2", f"--output={folder}/model2"]))
    return folder


def stage(folder, config, init_from, workdir, changes=None):
    """Status of a training; `changes` are fields of the config with other values."""
    fields = TINY | {"data.paths": f"{folder}/latents", "train.init_from": init_from}
    fields = (f"--config.{name}={value}" for name, value in (fields | (changes or {})).items())
    return train.main([f"--config=configs/{config}.py", *fields, f"--workdir={folder / workdir}"])


def done(status):
    assert status == 0


def weights(folder):
    return {name: x.read() for name, x in open_safetensors(folder / "transformer").items()}


def story(folder, checkpoint, *flags):
    """The record and frames of a story, with the defaults of the checkpoint."""
    path = folder / "story.yaml"
    path.write_text(yaml.safe_dump({"scenes": [{"prompt": prompt} for prompt in PROMPTS]}))
    output = folder / f"story_{checkpoint.name}"
    flags = [f"--checkpoint={checkpoint}", f"--storyboard={path}", f"--output={output}", *flags]
    done(sample.main(flags))
    return json.loads((output / "story.json").read_text())


@pytest.mark.slow
def test_the_folder_is_laid_out_as_the_base(folder, base):
    for model in (folder / "model1", folder / "model2"):
        files = {str(p.relative_to(model)) for p in model.rglob("[!.]*") if p.is_file()}
        files = {name for name in files if not name.endswith("digests.json")}
        there = {str(p.relative_to(base)) for p in base.rglob("*") if "sharded" not in str(p)}
        assert files == {p for p in there if (base / p).is_file()} | {"m2dit.json"}
        for name in ("model_index.json", "transformer/config.json"):
            assert (model / name).read_bytes() == (base / name).read_bytes()
        for name in ("vae/diffusion_pytorch_model", "text_encoder/model"):
            file = f"{name}.safetensors"
            assert (model / file).read_bytes() == (base / file).read_bytes()
        ours, theirs = weights(model), weights(base)
        assert {n: x.shape for n, x in ours.items()} == {n: x.shape for n, x in theirs.items()}
        assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)


def test_every_weight_of_the_run_is_in_the_folder(folder):
    directory = folder / "model2" / "transformer"
    abstract = DEFAULT.transformer.abstract(read_config(directory))
    leaves = open_leaves(directory, DEFAULT.transformer, abstract)
    tensors = find_weights(folder / "stage2").tensors()
    assert {f"transformer.{name}" for name in leaves} == tensors.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf.read(), tensors[f"transformer.{name}"].read())


@pytest.mark.slow
def test_run_and_folder_sample_the_same_frames_with_the_same_defaults(folder, base):
    of_run, of_folder = (story(folder, folder / name) for name in ("stage2", "model2"))
    assert of_run["frames_sha256"] == of_folder["frames_sha256"]
    assert of_run["storyboard"] == of_folder["storyboard"]
    assert of_run["model"] == str(folder / "model1")
    assert story(folder, base, "--steps=2", "--frames=5", "--height=32", "--width=48", "--fps=8")[
        "frames_sha256"
    ] not in (of_run["frames_sha256"],)


@pytest.mark.slow
def test_a_run_that_started_from_a_run_finds_the_base_of_the_first(folder, base, tmp_path, capsys):
    done(stage(folder, "finetune_5b", folder / "stage1", "direct"))
    assert f"starts from {folder}/stage1/checkpoints/2, weights 'params'" in capsys.readouterr().out
    assert story(folder, folder / "direct")["model"] == str(base)
    flags = [f"--source={folder}/direct", f"--output={tmp_path}/out", "--to=orbax"]
    done(convert.main([*flags, "--dtype=bfloat16"]))
    assert (tmp_path / "out/transformer/params/_METADATA").is_file()
    assert (tmp_path / "out/text_encoder/params/_METADATA").is_file()


@pytest.mark.slow
def test_another_scene_size_and_schedule_are_written(folder, base, tmp_path, capsys):
    changes = {"model.base_grid": "(2,2,3)", "diffusion.snr_shift": 3.0}
    assert stage(folder, "pretrain_5b", base, "other", changes) == 2
    assert "config.model.base_grid is (2, 2, 3), that of the folder (3, 4, 6)" in (
        capsys.readouterr().err
    )
    done(stage(folder, "pretrain_5b", "", "other", changes))
    assert convert.main([f"--source={folder}/other", f"--output={tmp_path}/out"]) == 2
    assert "config.train.init_from is empty; needs" in capsys.readouterr().err
    flags = [f"--source={folder}/other", f"--output={tmp_path}/out", f"--base={base}"]
    done(convert.main(flags))
    config = json.loads((tmp_path / "out/transformer/config.json").read_text())
    assert [config[f"sample_{name}"] for name in ("frames", "height", "width")] == [5, 4, 6]
    assert config["_class_name"] == "MultiPromptCogVideoXTransformer3DModel"
    scheduler = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert scheduler["snr_shift_scale"] == 3.0
    assert scheduler["_class_name"] == "CogVideoXDDIMScheduler"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights=ema"], "has the weights params, not ema"),
        (["--base={folder}/nothing"], "nothing: no such folder"),
        (["--output={folder}/model2"], "model2: exists"),
        (["--output={folder}/stage1/inside"], "must not lie in the source"),
        (["--source={folder}/model1", "--weights=ema"], "--weights is for a training run"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(folder, flags, message, capsys):
    before = sorted(path.name for path in folder.iterdir())
    flags = [flag.format(folder=folder) for flag in flags]
    assert convert.main([f"--source={folder}/stage1", f"--output={folder}/new", *flags]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_diffusers_loads_the_pipeline_and_makes_a_video(folder):
    pytest.importorskip("torch", reason="optional extra: torch")
    diffusers = pytest.importorskip("diffusers", reason="optional extra: diffusers")
    pipe = diffusers.CogVideoXPipeline.from_pretrained(folder / "model2")
    state = pipe.transformer.state_dict()
    ours = weights(folder / "model2")
    assert state.keys() == ours.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(state[name].numpy(), values)
    size = {"num_frames": 5, "height": 32, "width": 48, "max_sequence_length": 12}
    frames = pipe(PROMPTS[0], **size, num_inference_steps=2, output_type="np").frames
    assert frames.shape[2:] == (32, 48, 3) and np.isfinite(frames).all()
