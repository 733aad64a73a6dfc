import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2dit_jax import evaluate, train
from m2dit_jax.evaluation import children
from m2dit_jax.evaluation.arms import ARMS
from m2dit_jax.evaluation.fidelity import FIDELITY
from m2dit_jax.evaluation.report import Report
from m2dit_jax.evaluation.scores import Mean, Score
from m2dit_jax.evaluation.shapes_scores import METRICS, SCORES
from m2dit_jax.utils.files import write_json
from m2dit_jax.weights.run_folder import load_config

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent
DEADLINE = 300  # seconds; a test may fail, but not hang
TINY = [
    *("--config.model.layers=1", "--config.model.heads=1", "--config.model.head_dim=16"),
    *("--config.model.time_dim=16", "--config.train.batch_size=2", "--config.train.eval_every=0"),
    *("--config.train.steps=1", "--config.train.warmup_steps=0", "--config.sample.steps=1"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert train.main([f"--config={evaluate.DEFAULT_CONFIG}", *TINY, f"--workdir={workdir}"]) == 0
    return workdir


def test_a_checkpoint_is_scored(checkpoint, tmp_path, capsys):
    file, sheet = tmp_path / "new" / "scores.json", tmp_path / "sheet.png"
    flags = [f"--checkpoint={checkpoint}", "--stories=3", f"--json={file}", f"--sheet={sheet}"]
    sampling = ["--sampler=unip_3", "--steps=4", "--reuse_uncond=2"]
    assert evaluate.main([*flags, *sampling]) == 0
    content = json.loads(file.read_text())
    assert set(content) == {"generation", "extension", "seconds", "checkpoint_step", "sampling"}
    assert content["sampling"]["options"]["sampler"] == "unip_3"
    # Two branches in the first of four steps; in the run's own sampling in the second too.
    assert content["sampling"]["generation"]["evaluations"] == 5
    assert content["sampling"]["extension"]["full_evaluations"] == 6
    assert content["sampling"]["generation"]["error"] > 0
    assert content["checkpoint_step"] == 1
    assert content["seconds"] > 0
    assert set(content["generation"]) == set(content["extension"]) == set(SCORES)
    # An untrained model makes noise.
    psnr = content["generation"]["psnr"]
    assert 0 < psnr["low"] < psnr["value"] < psnr["high"] < 20 and psnr["n"] == 9
    assert content["extension"]["background_rms"]["n"] == 3
    assert content["extension"]["actor_rms"]["value"] > 30
    assert content["generation"]["background"]["n"] == 9
    assert content["extension"]["background"]["n"] == 3
    assert content["extension"]["same_actor"]["n"] == 3
    with Image.open(sheet) as image:
        assert image.height > 6 * 3 * 112  # six stories of three scenes
    captured = capsys.readouterr()
    assert "generation" in captured.out and str(file) in captured.out
    assert "extension: 3 of 3 stories" in captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the following arguments are required: --checkpoint"),
        (["--compare", "--checkpoint=runs/base"], "unknown flags"),
        (["--checkpoint=runs/base", "--leakage", "--scenes=4"], "arguments: --scenes=4"),
        (["long", "--checkpoint=runs/base"], "arguments are required: --scenes"),
        (["leakage", "--checkpoint=runs/base", "--workdir=x"], "arguments: --workdir=x"),
        (
            ["--checkpoint=runs/base", "--stories=0"],
            "found 0, needs a whole number, from 1 to",
        ),
        (["--checkpoint=runs/base", "--stories=many"], "found 'many', needs a whole number"),
        (["--compare_sampling", "--compare"], "arguments are required: --checkpoint"),
        (["--checkpoint=runs/base", "--config.train.steps=1"], "unrecognized arguments"),
        (["--compare", "--seeds=1,1"], "must be different, got 1,1"),
        (["--compare", "--config.seed=3"], "sets the mask and the seed itself: --config.seed=3"),
        (["--compare", "--json=scores.json"], "unknown flags"),
        (["--compare", "--storys=3"], "unknown flags"),
        (["--compare", "--config.model.scene_positions=True"], "sets the mask and the seed"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint=nothing"], "nothing"),
        (["--checkpoint=nothing", f"--json={ROOT}"], f"--json={ROOT}: is a folder, needs"),
        (["--compare", "--config=nothing.py"], "nothing.py"),
        (["--compare", "--config.train.speed=3"], "speed"),
        (["--compare", "--arms=full,diagonal"], "--arms: there is no diagonal; there are symmetr"),
        (["--compare", "--arms=first_frame"], "make scenes of one frame of patches"),
        (["--compare", "--config.train.steps=soon"], "steps"),
        (["--compare", "--guidance_scale=-1"], "--guidance_scale: found -1, needs a finite"),
        (
            ["--compare", "--config.train.steps=0"],
            "config.train.steps must be between 1 and",
        ),
    ],
)
def test_bad_input_ends_with_a_message(flags, message, capsys, tmp_path):
    workdir = [f"--workdir={tmp_path}"] if "--compare" in flags else []
    assert evaluate.main([*flags, *workdir]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=5000", "steps: found 5000, needs a number from 1 to 1000"),
        ("--guidance_start=1.5", "--guidance_start: found 1.5, needs a finite number, from 0 to 1"),
        ("--sampler=heun", "--sampler: found 'heun', needs one of ddim, dpm, unip_3"),
    ],
)
def test_impossible_sampling_ends_with_a_message(flag, message, checkpoint, capsys):
    assert evaluate.main([f"--checkpoint={checkpoint}", flag]) == 2
    assert message in capsys.readouterr().err


def test_the_flags_of_older_versions_choose_the_program():
    for flags, chosen in {
        ("--leakage", "--checkpoint=a"): ("leakage", ["--checkpoint=a"]),
        ("--checkpoint=a", "--compare_sampling"): ("sampling", ["--checkpoint=a"]),
        ("--compare", "--jobs=2"): ("masks", ["--jobs=2"]),
        ("--checkpoint=a", "--scenes=4"): ("long", ["--checkpoint=a", "--scenes=4"]),
        ("--videos", "a"): ("videos", ["--videos", "a"]),
        ("--checkpoint=a",): ("stories", ["--checkpoint=a"]),
        ("long", "--scenes=4"): ("long", ["--scenes=4"]),
    }.items():
        assert evaluate.choose_program(flags) == chosen


@pytest.mark.slow
def test_a_comparison_trains_and_scores_in_processes_of_their_own(tmp_path, capsys):
    flags = ["--compare", *TINY, "--arms=independent", "--seeds=0", "--stories=2"]  # takes seconds
    longer = ["--long_scenes=4", "--long_stories=1", f"--workdir={tmp_path}"]
    assert evaluate.main([*flags, *longer]) == 0
    content = json.loads((tmp_path / "compare.json").read_text())
    assert list(content) == ["independent"]
    assert content["independent"]["generation"]["background"]["n"] == 6
    assert content["independent"]["long"]["background"]["n"] == 4
    assert content["independent"]["seeds"]["0"]["step_seconds"] > 0
    assert content["independent"]["seeds"]["0"]["checkpoint_step"] == 1
    assert load_config(tmp_path / "independent-seed0").model.mask == "independent"
    table = (tmp_path / "compare.md").read_text()
    assert "| extension | independent | cases |" in table
    assert "| 4 scenes | independent | cases |" in table
    assert table in capsys.readouterr().out


@pytest.fixture
def calls(monkeypatch):
    """The processes that a comparison would start; an evaluation leaves a report."""
    calls = []

    def run(_, label, module, *flags):
        calls.append((label, module.removeprefix("m2dit_jax."), flags))
        if flags[0] == "long":
            parsed = evaluate.PROGRAMS["long"].parse("long", flags[1:])
            whole = {metric: asdict(Score.of(1, parsed.stories)) for metric in METRICS}
            write_json(parsed.json, {"whole": whole, "checkpoint_step": 1})
        elif module == "m2dit_jax.evaluate":
            parsed = evaluate.PROGRAMS["stories"].parse("stories", flags)
            parsed.json.parent.mkdir(parents=True, exist_ok=True)
            scores = {metric: Score.of(parsed.stories, parsed.stories) for metric in METRICS}
            scores |= dict.fromkeys(FIDELITY, Mean.of(np.arange(float(parsed.stories))))
            write_json(parsed.json, Report(scores, scores, 1.0, checkpoint_step=1).to_json())

    monkeypatch.setattr(children.Children, "run", run)
    return calls


def test_a_comparison_makes_every_arm_with_every_seed_and_pools_the_seeds(calls, tmp_path):
    flags = ["--compare", *TINY, "--seeds=4,5", "--stories=7", "--steps=3", "--jobs=2"]
    arms = ["symmetric", "full_with_scenes", "independent"]
    flags += [f"--arms={','.join(arms)}", "--long_stories=3"]
    assert evaluate.main([*flags, f"--workdir={tmp_path}"]) == 0
    trained = [(label, flags) for label, module, flags in calls if module == "train"]
    assert len(trained) == len(calls) / 3 == 6
    for arm in arms:
        for seed in (4, 5):
            ((_, train_flags),) = (t for t in trained if t[0] == f"{arm}, seed {seed}")
            assert f"--config.model.mask={arm.removesuffix('_with_scenes')}" in train_flags
            knows = "--config.model.scene_positions=True"
            assert (knows in train_flags) == (arm == "full_with_scenes")
            assert f"--config.seed={seed}" in train_flags
            assert set(TINY) < set(train_flags)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert list(content) == arms
    assert content["independent"]["generation"]["shape"]["n"] == 14
    assert content["independent"]["long"]["shape"]["value"] == 2 / 6
    assert content["independent"]["step_flops"] < content["symmetric"]["step_flops"]
    assert list(content["independent"]["seeds"]) == ["4", "5"]


def test_masks_are_compared_on_a_model_of_single_scenes(calls, tmp_path, capsys):
    flags = ["masks", *TINY, "--seeds=4,5", "--long_scenes=0", "--arms=symmetric,independent"]
    flags += ["--single_steps=9", "--tuned_steps=3", f"--workdir={tmp_path}"]
    assert evaluate.main(flags) == 0
    trained = [flags for _, module, flags in calls if module == "train"]
    assert len(trained) == 2 + 2 * 4
    for seed, single in zip((4, 5), trained[:2], strict=True):
        assert "--config.data.scenes=1" in single and "--config.train.steps=9" in single
        folder = tmp_path / f"single-seed{seed}"
        assert f"--workdir={folder}" in single
        starts = [run for run in trained if f"--config.train.init_from={folder}" in run]
        assert len(starts) == 4
        assert all(f"--config.seed={seed}" in run for run in starts)
        as_it_is = [run for run in starts if "--config.train.learning_rate=0.0" in run]
        assert len(as_it_is) == 2 and all("--config.train.steps=1" in run for run in as_it_is)
    for name in ("untrained", "tuned"):
        assert list(json.loads((tmp_path / name / "compare.json").read_text())) == [
            "symmetric",
            "independent",
        ]
    out = capsys.readouterr().out
    assert out.index("untrained:") < out.index("tuned:")
    assert evaluate.main(["masks", *TINY, "--tuned_steps=3", f"--workdir={tmp_path}"]) == 2
    assert "--tuned_steps: needs --single_steps" in capsys.readouterr().err


def test_a_comparison_leaves_out_what_its_scenes_are_too_short_for(calls, tmp_path, capsys):
    flags = ["--compare", *TINY, "--seeds=0", "--long_scenes=0", f"--workdir={tmp_path}"]
    assert evaluate.main(flags) == 0
    assert "left out: " in capsys.readouterr().err
    content = json.loads((tmp_path / "compare.json").read_text())
    assert list(content) == ["symmetric", "full", "independent", "causal", "full_with_scenes"]
    assert evaluate.main([*flags, "--config.model.patch_size_t=1"]) == 0
    assert set(json.loads((tmp_path / "compare.json").read_text())) == set(ARMS)


def test_a_comparison_goes_on_where_it_was_stopped(calls, tmp_path):
    arms = "--arms=symmetric,full,independent"
    flags = ["--compare", *TINY, arms, "--seeds=0", f"--workdir={tmp_path}"]
    assert evaluate.main(flags) == 0
    table = (tmp_path / "compare.md").read_text()
    shutil.rmtree(tmp_path / "full-seed0")
    calls.clear()
    assert evaluate.main(flags) == 0
    assert [label for label, module, _ in calls if module == "evaluate"] == ["full, seed 0"] * 2
    assert (tmp_path / "compare.md").read_text() == table

    # Reports made with other settings, or of an older checkpoint, do not count.
    for more in (["--stories=9"], ["--config.train.steps=2"]):
        calls.clear()
        shutil.rmtree(tmp_path / "full-seed0")
        evaluate.main([*flags, *more])
        made = sum(module == "evaluate" and flags[0] != "long" for _, module, flags in calls)
        assert made == 3, more


@pytest.mark.slow
def test_a_failing_run_ends_the_comparison(tmp_path, capsys):
    (tmp_path / "symmetric-seed0").write_text("a file where the run's folder should be")
    flags = ["--compare", *TINY, "--seeds=0", "--stories=2", f"--workdir={tmp_path}"]
    assert evaluate.main(flags) == 1
    captured = capsys.readouterr()
    assert "symmetric, seed 0: m2dit_jax.train ended with status" in captured.err
    assert "[full" not in captured.out
    assert not (tmp_path / "compare.md").exists()


@pytest.fixture
def start():
    """Starts an evaluation in a process that does not outlive the test."""
    with ExitStack() as cleanup:

        def start(*flags):
            process = subprocess.Popen(
                [sys.executable, "-m", "m2dit_jax.evaluate", *flags],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            cleanup.enter_context(process)
            cleanup.callback(_end, process)
            # Ends the wait for a line, which knows no timeout.
            timer = threading.Timer(DEADLINE, _end, [process])
            cleanup.callback(timer.cancel)
            timer.start()
            return process

        yield start


def _end(process):
    process.terminate()  # first, as a comparison then ends its own processes
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.mark.slow
def test_an_interrupted_comparison_leaves_no_process_behind(start, tmp_path):
    steps = "--config.train.steps=1000000"
    process = start("--compare", *TINY, steps, f"--workdir={tmp_path}")
    assert process.stdout.readline().startswith("[symmetric, seed 0] ")
    process.send_signal(signal.SIGTERM)
    # The training holds the other end of the pipe until it has ended.
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 143
    assert "the same command goes on from here" in err


def test_cores_are_dealt_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5, 7}, raising=False)
    assert children.core_shares(1) == [{0, 1, 4, 5, 7}]
    assert children.core_shares(2) == [{0, 1}, {4, 5, 7}]
    assert children.core_shares(6) == [{0}, {1}, {4}, {5}, {7}, {0}]
