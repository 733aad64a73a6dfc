import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from m2dit_jax import sample, train
from m2dit_jax.data.shapes import Scene, render_scene
from m2dit_jax.pipeline.load import load
from m2dit_jax.stories.output import check_output, only_story_in
from m2dit_jax.stories.storyboard import Scene as StoryScene
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.media import frames_digest, read_clip, write_mp4
from tests.story_building import build_scenes

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent
TINY = [
    *("--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"),
    *("--config.model.time_dim=16", "--config.train.batch_size=2", "--config.train.eval_every=0"),
    *("--config.train.steps=1", "--config.train.warmup_steps=0", "--config.sample.steps=2"),
]
PROMPTS = ["a red square moves up on navy", "it moves left on black", "it moves down on white"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert train.main([f"--config={ROOT}/configs/base.py", *TINY, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A given clip: larger than the model's frames, and with one more of them."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_mp4(path, render_scene(Scene("cross", "blue", "gray", "left"), 4, 32), 4)
    return path


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    """Runs the command on a storyboard; returns status, story.json (None on error) and stderr."""

    def run(scenes, *flags, output=tmp_path / "out", **fields):
        if not isinstance(scenes, Path):
            path = tmp_path / "story.yaml"
            path.write_text(yaml.safe_dump({"scenes": scenes, **fields}))
            scenes = path
        status = sample.main(
            [f"--checkpoint={checkpoint}", f"--storyboard={scenes}", f"--output={output}", *flags]
        )
        story = json.loads((output / "story.json").read_text()) if status == 0 else None
        return status, story, capsys.readouterr().err

    return run


@pytest.fixture
def no_weights(monkeypatch):
    def load(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("m2dit_jax.weights.run_folder.TrainedWeights.load", load)


def _written(folder, prompts):
    path = folder / "explained.yaml"
    path.write_text(yaml.safe_dump({"scenes": as_scenes(prompts)}))
    return path


def as_scenes(prompts):
    return [{"prompt": prompt} for prompt in prompts]


@pytest.mark.slow
def test_a_story_comes_out_whole_and_says_how_it_was_made(run, checkpoint, tmp_path):
    status, story, _ = run(as_scenes(PROMPTS), seed=3)
    assert status == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("story.mp4", "story.gif", "scene_1.mp4", "scene_2.mp4", "scene_3.mp4"),
        *("contact_sheet.png", "story.json", "storyboard.json", "index.html"),
        *("scenes", "build.json"),
    }
    assert story["storyboard"] == {
        "scenes": as_scenes(PROMPTS),
        "seed": 3,
        "negative_prompt": "",
        "fps": 4.0,
        "video_quality": "standard",
        **{"frames": 3, "height": 16, "width": 16},
        **{"sampler": "ddim", "steps": 2, "guidance_scale": 2.0},
        **{"dynamic_guidance": False, "as_reference": False, "noise_given": False},
        **{"guidance_start": 0.0, "guidance_end": 0.5, "reuse_uncond": 1},
        **{"cache_tolerance": 0.0, "guidance_rescale": 0.0, "clip_x0": 0.0},
        **{"global_prompt": "", "window": 3, "new_scenes": 1, "anchor": True, "retries": 0},
    }
    assert json.loads((tmp_path / "out" / "storyboard.json").read_text()) == story["storyboard"]
    assert [scene["video"] for scene in story["scenes"]] == [f"scene_{i}.mp4" for i in (1, 2, 3)]
    assert [scene["given"] for scene in story["scenes"]] == [False] * 3
    assert story["checkpoint"] == {"path": str(checkpoint), "step": 1}
    assert story["config"]["model"]["head_dim"] == 16
    assert set(story["versions"]) == {"m2dit_jax", "jax", "flax"}
    scene = read_clip(tmp_path / "out" / "scene_2.mp4", 3, 16, 16).astype(int)
    whole = read_clip(tmp_path / "out" / "story.mp4", 9, 16, 16).astype(int)
    assert np.abs(scene - whole[3:6]).mean() < 8  # the same frames, but for compression


@pytest.mark.slow
def test_frames_depend_on_the_seed_alone_and_storyboard_json_makes_them_again(run, tmp_path):
    first = run(as_scenes(PROMPTS), seed=3)[1]
    again = run(tmp_path / "out" / "storyboard.json", output=tmp_path / "again")[1]
    assert again["frames_sha256"] == first["frames_sha256"]
    assert again["storyboard"] == first["storyboard"]
    other = run(as_scenes(PROMPTS), "--seed=4", seed=3)[1]
    assert other["storyboard"]["seed"] == 4
    assert other["frames_sha256"] != first["frames_sha256"]


def test_given_scenes_stay_as_read_wherever_they_stand(checkpoint, clip, tmp_path):
    # Four scenes, where the model was trained with three.
    pipeline = load(checkpoint)
    prompts = [*PROMPTS, "it moves up on olive"]
    expected = read_clip(clip, 3, 16, 16)
    for given in [(0,), (1,), (3,), (0, 2)]:
        scenes = [
            StoryScene(prompt=p, video=clip if i in given else None) for i, p in enumerate(prompts)
        ]
        video = build_scenes(pipeline, Storyboard(scenes=scenes, window=4), tmp_path)
        for i in range(4):
            assert (video[i] == expected).all() == (i in given), (i, given)


def test_a_given_scene_is_marked_and_its_clip_found_again(run, clip, tmp_path):
    scenes = [{"prompt": PROMPTS[0], "video": str(clip)}, {"prompt": PROMPTS[1]}]
    story = run(scenes)[1]
    assert [scene["given"] for scene in story["scenes"]] == [True, False]
    assert story["scenes"][0]["frames_sha256"] == frames_digest(read_clip(clip, 3, 16, 16))
    again = run(tmp_path / "out" / "storyboard.json", output=tmp_path / "again")[1]
    assert again["frames_sha256"] == story["frames_sha256"]


def test_all_that_the_model_cannot_take_is_named_with_its_line(run, no_weights, tmp_path):
    write_mp4(tmp_path / "short.mp4", np.zeros((2, 16, 16, 3), np.uint8), 4)
    path = tmp_path / "story.yaml"
    path.write_text(f"""steps: 2000
scenes:
  - prompt: {PROMPTS[0]}
    video: short.mp4
  - prompt: a purple square moves up
  - prompt: >
      {"up " * 100}
negative_prompt: blurry
""")
    status, _, err = run(path)
    assert status == 2
    starts = [
        f"{path}:5: scenes[1].prompt: prompt 'a purple square moves up' has unknown words: purple",
        f"{path}:6: scenes[2].prompt: prompt 'up up ",
        f"{path}:8: negative_prompt: prompt 'blurry' has unknown words: blurry",
        f"{path}:4: scenes[0].video: {tmp_path}/short.mp4: has 2 frames, needs at least 3",
        f"{path}:1: steps: found 2000, needs a number from 1 to 1000",
    ]
    for line, start in zip(err.splitlines(), starts, strict=True):
        assert line.startswith(start)
    assert not (tmp_path / "out").exists()


def test_lines_are_kept_beside_flags(run, no_weights, tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text("steps: 2\nscenes:\n  - prompt: it moves sideways\n")
    status, _, err = run(path, "--steps=3000", "--seed=1")
    assert status == 2
    first, second = err.splitlines()
    assert first.startswith(f"{path}:3: scenes[0].prompt: prompt 'it moves sideways' has unknown")
    assert second == "--steps: found 3000, needs a number from 1 to 1000"


@pytest.mark.parametrize(
    ("flags", "fields", "message"),
    [
        ([], {"fps": 0}, "story.yaml:1: fps: found 0"),
        (["--seed=-1"], {}, "--seed: found -1"),
        (["--guidance_scale=nan"], {}, "--guidance_scale: found nan"),
        (["--steps=2000"], {}, "--steps: found 2000, needs a number from 1 to 1000"),
        ([], {"sampler": "heun"}, "sampler: found 'heun', needs one of ddim, dpm, "),
        ([], {"guidance_start": 0.5, "guidance_end": 0.2}, "guidance_end: found 0.2, needs"),
        (
            ["--cache_tolerance=-1"],
            {},
            "--cache_tolerance: found -1, needs a finite number, from 0 to",
        ),
        ([], {"noise_given": 1}, "story.yaml:1: noise_given: found 1, needs true or false"),
        (["--width=24"], {"frames": 3}, "story.yaml:1: frames, --width: 3 frames of 16x24 cannot"),
        ([], {"frames": 4}, "story.yaml:1: frames: 4 frames of 16x16 cannot be"),
        (["--new_scenes=4"], {}, "--new_scenes: new_scenes 4 cannot be with a window of 3 scenes"),
        (["--checks", "sharp"], {}, "--checks: found a list of 1, needs one or a list of finite"),
        ([], {"global_prompt": "sea"}, "global_prompt: prompt 'sea' has unknown words: sea"),
        (["--decoder=tiles"], {}, "--decoder=tiles: only for models with a VAE"),
        (["--mesh=2"], {}, "--mesh=2: only for models with a VAE"),
    ],
)
def test_bad_values_fail_before_weights_are_loaded(run, no_weights, flags, fields, message):
    status, _, err = run(as_scenes(PROMPTS), *flags, **fields)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_without_a_checkpoint_there_is_one_clear_message(tmp_path, capsys):
    status = sample.main(
        [
            f"--checkpoint={tmp_path / 'nothing'}",
            f"--storyboard={ROOT / 'configs/storyboards/lone_actor.yaml'}",
            f"--output={tmp_path / 'out'}",
        ]
    )
    assert status == 2
    assert capsys.readouterr().err == (
        f"--checkpoint: {tmp_path}/nothing: no such folder; needs the folder of a training run, "
        "the one that holds checkpoints/\n"
    )


@pytest.mark.parametrize("name", ["story.mp4", "story.gif", "scene_2.mp4", "scene_3.mp4"])
def test_a_given_clip_is_never_overwritten_or_removed(run, no_weights, clip, tmp_path, name):
    own = tmp_path / "out" / name
    own.parent.mkdir()
    own.write_bytes(clip.read_bytes())
    status, _, err = run([{"prompt": PROMPTS[0], "video": f"out/{name}"}, {"prompt": PROMPTS[1]}])
    assert status == 2
    assert err.startswith(f"{tmp_path}/story.yaml:3: scenes[0].video: {own} is a given clip")
    assert own.read_bytes() == clip.read_bytes()


def test_which_given_clips_are_in_the_way(clip, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "scene_9.mp4").symlink_to(clip)
    (tmp_path / "fox.mp4").symlink_to(out / "scene_4.mp4")

    def check(video, folder=out):
        scenes = StoryScene(prompt=PROMPTS[0], video=video), StoryScene(prompt=PROMPTS[1])
        check_output(Storyboard(scenes=scenes), folder)

    for video in (out / "scene_9.mp4", tmp_path / "fox.mp4", out / ".." / "out" / "story.gif"):
        with pytest.raises(StoryboardError, match="is a given clip"):
            check(video)
    check(out / "scene_3.mp4", tmp_path / "elsewhere")
    check(out / "my_scene_3.mp4")
    check(out / "scene_3.mp4.mov")
    check(out / "clips" / "scene_3.mp4")
    with pytest.raises(StoryboardError, match="clip.mp4 is a file, needs a folder"):
        check(out / "my_scene_3.mp4", clip / "out")
    sheet = StoryScene(prompt=PROMPTS[0], image=out / "contact_sheet.png")
    with pytest.raises(StoryboardError, match=r"scenes\[0\].image: .* is a given picture"):
        check_output(Storyboard(scenes=(sheet, StoryScene(prompt=PROMPTS[1]))), out)


def test_a_shorter_story_leaves_no_scenes_of_the_longer_one(run, tmp_path):
    run(as_scenes(PROMPTS))
    run(as_scenes(PROMPTS[:2]))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == [
        *("scene_1.mp4", "scene_2.mp4", "story.mp4")
    ]


@pytest.mark.slow
def test_a_long_story_is_explained_and_made_anew_where_it_was_changed(
    run, checkpoint, tmp_path, capsys
):
    prompts = [*PROMPTS, "it moves up on olive", "it moves left on gray"]
    first = run(as_scenes(prompts))[1]
    assert [scene["context"] for scene in first["scenes"]] == [[], [], [], [1, 3], [1, 4]]
    assert first["scenes"][0]["made_with"] == [2, 3]
    assert [scene["evaluations"] for scene in first["scenes"]] == [3] * 5  # the first of 2 guided
    prompts[4] = "it moves right on gray"
    before = sorted((tmp_path / "out" / "scenes").iterdir())
    flags = [f"--storyboard={_written(tmp_path, prompts)}", f"--output={tmp_path / 'out'}"]
    capsys.readouterr()
    assert sample.main([f"--checkpoint={checkpoint}", *flags, "--explain"]) == 0
    assert capsys.readouterr().out.startswith("scene 1: kept\n")
    assert sorted((tmp_path / "out" / "scenes").iterdir()) == before
    second, err = run(as_scenes(prompts))[1:]
    assert "scene 4: kept\nscene 5: to be made anew: its prompt: 'it moves left on gray' ->" in err
    assert [scene["status"] for scene in second["scenes"]] == ["reused"] * 4 + ["generated"]
    fresh = run(as_scenes(prompts), output=tmp_path / "fresh")[1]
    assert fresh["frames_sha256"] == second["frames_sha256"]
    assert [
        a["key"] == b["key"] for a, b in zip(first["scenes"], second["scenes"], strict=True)
    ] == [*(True, True, True, True, False)]


def test_scenes_with_settings_of_their_own_under_a_global_prompt_and_a_gate(run):
    scenes = [
        {"prompt": PROMPTS[0], "frames": 6},
        {"prompt": PROMPTS[1], "seed": 5, "guidance_scale": 1.0, "negative_prompt": PROMPTS[2]},
        {"prompt": PROMPTS[2], "cut": True},
    ]
    gate = {"retries": 1, "checks": ["oracle"]}
    story = run(scenes, global_prompt="a red square moves up on navy", **gate)[1]
    assert [scene["frames"] for scene in story["scenes"]] == [6, 3, 3]
    assert story["scenes"][1]["seed"] == 5 and story["scenes"][1]["guidance_scale"] == 1
    # After one step of training no oracle recognises anything: both attempts are told.
    assert [len(scene["attempts"]) for scene in story["scenes"]] == [2, 2, 2]
    assert not any(scene["passed"] for scene in story["scenes"])
    assert story["scenes"][0]["attempts"][0]["failures"][0].startswith("oracle: ")


@pytest.mark.slow
def test_prompts_are_given_instead_of_a_file_and_scenes_kept(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    where = [f"--checkpoint={checkpoint}", f"--output={out}"]
    said = ["--prompt=a red cross", "--prompt=it moves up"]
    assert sample.main([*where, *said]) == 0
    first = json.loads((out / "story.json").read_text("utf-8"))
    assert [scene["prompt"] for scene in first["scenes"]] == ["a red cross", "it moves up"]
    board = first["storyboard"]
    board["scenes"] = [board["scenes"][0] | {"keep": True}, board["scenes"][1] | {"take": 1}]
    (tmp_path / "story.json").write_text(json.dumps(board), "utf-8")
    capsys.readouterr()
    assert sample.main([*where, f"--storyboard={tmp_path / 'story.json'}", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scene 1: kept, as keep asks" and "its take: 0 -> 1" in lines[1]
    assert sample.main([*where, f"--storyboard={tmp_path / 'story.json'}"]) == 0
    second = json.loads((out / "story.json").read_text("utf-8"))["scenes"]
    assert [(scene["status"], scene.get("take")) for scene in second] == [
        *(("kept", None), ("generated", 1))
    ]
    assert second[0]["key"] == first["scenes"][0]["key"]
    assert second[0]["frames_sha256"] == first["scenes"][0]["frames_sha256"]


def test_the_example_runs_as_a_command(checkpoint, tmp_path):
    storyboard = ROOT / "configs" / "storyboards" / "lone_actor.yaml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "m2dit_jax.sample", f"--checkpoint={checkpoint}"),
            *(f"--storyboard={storyboard}", f"--output={tmp_path}/out", "--steps=2"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    story = json.loads((tmp_path / "out" / "story.json").read_text())
    assert story["frames_sha256"] in done.stdout
    assert len(Storyboard.read(storyboard).scenes) == len(story["scenes"]) == 3


def test_a_folder_in_which_a_story_is_being_made_is_refused(run, tmp_path):
    with only_story_in(tmp_path / "out"):
        status, _, message = run(as_scenes(PROMPTS))
    assert status == 2
    assert (
        f"{tmp_path}/out: another process makes a story there (process {os.getpid()} on" in message
    )
    assert not (tmp_path / "out" / "story.json").exists()
