"""From videos to a sampled story: encode, train, sample; pixels, and a VAE's latents."""

import json
import shutil
from typing import Any, cast

import numpy as np
import pytest
import yaml

from m2dit_jax import encode, evaluate, sample, train
from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.evaluation.fidelity import psnr
from m2dit_jax.evaluation.recall import training_stories
from m2dit_jax.utils.media import read_clip, write_mp4
from m2dit_jax.weights.run_folder import load_config

pytestmark = pytest.mark.e2e

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
SMALL = ["--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"]
SHORT = [
    *("--config.model.time_dim=8", "--config.train.batch_size=2", "--config.train.steps=4"),
    *("--config.train.warmup_steps=1", "--config.train.log_every=2", "--config.data.scenes=2"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three videos, and a story of all of them."""
    folder = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        frames = np.broadcast_to(np.array(colour, np.uint8), (12, 32, 48, 3))
        write_mp4(folder / f"{name}.mp4", frames, 8)
    scenes = [{"video": f"{name}.mp4", "caption": f"a {name} wall"} for name in COLOURS]
    (folder / "stories.jsonl").write_text(json.dumps({"name": "walls", "scenes": scenes}) + "\n")
    return folder


def of_codec(clips, output, codec, frames):
    return encode.main(
        [
            *(f"--manifest={clips}/stories.jsonl", f"--output={output}", f"--codec={codec}"),
            *(f"--frames={frames}", "--height=32", "--width=48", "--workers=1"),
        ]
    )


@pytest.fixture(scope="module")
def pixels(clips):
    assert of_codec(clips, clips / "pixels", "pixels", 4) == 0
    return clips / "pixels"


@pytest.fixture(scope="module")
def of_pixels(pixels):
    """Flags of a run on pixels."""
    return [
        *("--config=configs/real_clips.py", f"--config.data.paths={pixels}", *SMALL, *SHORT),
        *("--config.train.eval_every=2", "--config.train.eval_stories=1"),
        "--config.sample.steps=2",
    ]


def story(folder, prompts, **fields):
    path = folder / "story.yaml"
    path.write_text(yaml.safe_dump({"scenes": prompts, **fields}))
    return path


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_pixels_are_trained_and_sampled(of_pixels, clips, tmp_path, capsys):
    assert train.main([*of_pixels, f"--workdir={tmp_path}/run"]) == 0
    run = tmp_path / "run"
    shares = [line["waiting_share"] for line in lines(run) if "loss" in line]
    assert len(shares) == 2 and all(0 <= share <= 1 for share in shares)
    assert [line["step"] for line in lines(run) if "recall/psnr" in line] == [2, 4]
    assert (run / "first_batch.png").exists()
    assert (run / "previews" / "step_000004.png").exists()
    assert "PSNR of 1 training stories" in capsys.readouterr().out

    prompts = [{"prompt": "a red wall", "video": str(clips / "red.mp4")}, {"prompt": "ünknown"}]
    path = story(tmp_path, prompts)
    flags = [f"--checkpoint={run}", f"--storyboard={path}", f"--output={tmp_path}/out"]
    assert sample.main(flags) == 0
    made = json.loads((tmp_path / "out" / "story.json").read_text())
    capsys.readouterr()
    report = [f"--checkpoint={run}", f"--json={tmp_path}/r.json", f"--sheet={tmp_path}/r.png"]
    assert evaluate.main([*report, "--steps=2"]) == 0
    assert "PSNR of 1 training stories" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["checkpoint_step"] == 4
    assert (tmp_path / "r.png").exists()
    assert made["storyboard"]["frames"] == 4 and made["storyboard"]["width"] == 48
    assert read_clip(tmp_path / "out" / "scene_2.mp4", 4, 32, 48).shape == (4, 32, 48, 3)


def is_watched(run, suffixes):
    """Validation losses in metrics.jsonl, previews in the folder, both in TensorBoard."""
    found = [line for line in lines(run) if "validation/generation/loss" in line]
    assert [line["step"] for line in found] == [2, 4]
    assert all(line["validation/extension/timesteps_000_249"] > 0 for line in found)
    names = {path.name for path in (run / "previews").iterdir()}
    assert {f"stories_{step:06}.{s}" for step in (2, 4) for s in suffixes} <= names
    events = b"".join(path.read_bytes() for path in (run / "tensorboard").iterdir())
    assert b"validation/generation/loss" in events and b"preview/stories/captions" in events


WATCHED = [
    *("--config.train.validate_every=2", "--config.train.validation_stories=3"),
    "--config.train.preview_every=2",
]


@pytest.mark.slow
def test_a_run_on_pixels_can_be_watched(of_pixels, pixels, tmp_path, capsys):
    flags = [*of_pixels, *WATCHED, "--config.train.eval_every=0", f"--workdir={tmp_path}/run"]
    assert train.main(flags) == 2
    assert "validate_every needs held-out stories" in capsys.readouterr().err
    flags.append("--config.data.held_out_share=0.3")
    assert train.main(flags) == 2
    assert "a share of 0.3 of 1 stories leaves none to train on" in capsys.readouterr().err
    flags[-1] = f"--config.data.held_out_paths={pixels}"
    assert train.main(flags) == 0
    is_watched(tmp_path / "run", ["png", "gif"])
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"1. a red wall" in events.read_bytes(), "the caption"


@pytest.mark.slow
def test_data_may_move_but_not_become_others(of_pixels, clips, pixels, tmp_path, capsys):
    run = [*of_pixels, "--config.train.eval_every=0", f"--workdir={tmp_path}/run"]
    assert train.main(run) == 0
    shutil.copytree(pixels, tmp_path / "moved")
    longer = [*run, "--config.train.steps=6", "--override"]
    assert train.main([*longer, f"--config.data.paths={tmp_path}/moved"]) == 0
    assert of_codec(clips, tmp_path / "others", "pixels", 8) == 0
    capsys.readouterr()
    others = [*run, "--config.train.steps=8", "--override", "--config.data.frames=4"]
    assert train.main([*others, f"--config.data.paths={tmp_path}/others"]) == 2
    error = capsys.readouterr().err
    assert "run was trained on other data than it names now" in error
    assert f"{tmp_path}/others: " in error and "--config.train.init_from=" in error


@pytest.mark.slow
def test_an_interrupted_run_on_files_goes_on_where_it_stopped(of_pixels, tmp_path):
    whole = [*of_pixels, "--config.train.eval_every=0", "--config.train.checkpoint_every=2"]
    assert train.main([*whole, f"--workdir={tmp_path}/whole"]) == 0
    assert train.main([*whole, f"--workdir={tmp_path}/part"]) == 0
    # As if the second half had never been.
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "4")
    assert train.main([*whole, f"--workdir={tmp_path}/part"]) == 0
    first, second = (
        [{k: v for k, v in line.items() if k != "waiting_share"} for line in lines(tmp_path / name)]
        for name in ("whole", "part")
    )
    assert first == second


@pytest.mark.slow
def test_latents_are_trained_and_sampled(golden, clips, tmp_path, capsys):
    model = golden / "pipe_5b"
    assert of_codec(clips, tmp_path / "latents", model, 5) == 0
    dataset = EncodedDataset(tmp_path / "latents")
    assert dataset.info.scaling_factor == 0.7
    flags = [
        *("--config=configs/pretrain_5b.py", f"--config.data.paths={dataset.path}"),
        *(*SMALL, *SHORT, "--config.train.init_from=", f"--workdir={tmp_path}/run"),
        *("--config.data.frames=5", "--config.data.height=32", "--config.data.width=48"),
        *("--config.data.channels=4", "--config.data.text_dim=32", "--config.sample.steps=2"),
        "--config.mesh.fsdp=1",
    ]
    assert train.main(flags) == 2
    assert "config.data.text_length is 226, that of the dataset 12" in capsys.readouterr().err
    flags.append("--config.data.text_length=12")
    assert train.main(flags) == 0
    assert load_config(tmp_path / "run").data.source == "latents"
    assert (tmp_path / "run" / "first_batch.png").exists()

    watched = [
        *(flag for flag in flags if "--workdir" not in flag),
        *(*WATCHED, f"--workdir={tmp_path}/watched"),
        f"--config.data.held_out_paths={dataset.path}",
    ]
    assert train.main(watched) == 2
    assert "needs a model folder whose VAE decodes" in capsys.readouterr().err
    boards = story(tmp_path, [{"prompt": "a red wall"}, {"prompt": "a blue wall"}])
    watched += [f"--config.train.preview_model={model}"]
    watched += [f"--config.train.preview_storyboards={boards}"]
    assert train.main(watched) == 0
    is_watched(tmp_path / "watched", ["png", "gif"])

    path = story(tmp_path, [{"prompt": "a red wall"}, {"prompt": "a blue wall"}])
    sampling = [f"--checkpoint={tmp_path}/run", f"--storyboard={path}", f"--output={tmp_path}/out"]
    assert sample.main([*sampling, f"--model={model}"]) == 0
    made = json.loads((tmp_path / "out" / "story.json").read_text())
    assert made["checkpoint"]["step"] == 4 and made["model"] == str(model)
    assert read_clip(tmp_path / "out" / "scene_1.mp4", 5, 32, 48).shape == (5, 32, 48, 3)
    assert sample.main([*sampling, f"--model={golden / 'nothing'}"]) == 2

    # Another VAE's latents are of another scale: neither sampled nor trained from.
    capsys.readouterr()
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = other / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 1.1}))
    assert sample.main([*sampling, f"--model={other}"]) == 2
    message = capsys.readouterr().err
    assert "learnt from latents with the scaling factor 0.7" in message and "is 1.1" in message
    (tmp_path / "run" / "latents.json").unlink()  # as in runs of older versions
    assert sample.main([*sampling, f"--model={other}"]) == 2


@pytest.mark.slow
def test_several_folders_are_mixed_and_must_fit(of_pixels, clips, pixels, tmp_path, capsys):
    other = tmp_path / "other"
    assert of_codec(clips, other, "pixels", 8) == 0
    mixed = [*of_pixels, f"--config.data.paths={pixels},{other}", "--config.train.eval_every=0"]
    assert train.main([*mixed, f"--workdir={tmp_path}/run"]) == 0
    assert train.main([*of_pixels, f"--config.data.paths={tmp_path}/no"]) == 2
    assert "is no output of python -m m2dit_jax.encode" in capsys.readouterr().err
    assert of_codec(clips, tmp_path / "odd", "pixels", 3) == 0
    assert train.main([*of_pixels, f"--config.data.paths={tmp_path}/odd"]) == 2
    assert "scenes of 3x32x48 do not divide into patches of (4, 4, 4)" in capsys.readouterr().err
    assert (
        train.main(
            [
                *of_pixels,
                "--config.data.source=latents",
                "--config.data.frames=5",
                "--config.data.width=64",
                "--config.train.eval_every=0",
                "--config.model.patch_size_t=1",
            ]
        )
        == 2
    )
    assert "was encoded with the codec pixels" in capsys.readouterr().err


def test_stories_to_compare_with_are_the_first_of_their_length(pixels):
    dataset = EncodedDataset(pixels)
    (found,) = training_stories([dataset], 2, 5)
    assert found.captions == ("a red wall", "a green wall")
    np.testing.assert_array_equal(found.video, cast(Any, dataset[0])["pixels"][:2])


def test_psnr_by_hand():
    clips = np.zeros((2, 1, 4, 4, 3), np.uint8)
    made = clips.copy()
    made[0] = 255
    np.testing.assert_allclose(psnr(made, clips), [0.0, 60.0])
    made[0] = 51  # a fifth
    np.testing.assert_allclose(psnr(made, clips)[0], 20 * np.log10(5))
