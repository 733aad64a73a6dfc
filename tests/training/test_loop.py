import gzip
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image, ImageSequence

from m2dit_jax.config.schema import Config
from m2dit_jax.training.hooks import NonFiniteLoss
from m2dit_jax.training.loop import train_and_evaluate
from m2dit_jax.training.record import read_record
from m2dit_jax.training.run import prepare
from m2dit_jax.training.workdir import only_run_in, token_problem, write_token
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.run_folder import CheckpointError

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def compile_with(make_tiny_config, tmp_path_factory):
    @cache
    def compile_with(optimizer):
        config = make_tiny_config()
        config.train.eval_every = 8
        config.train.optimizer = optimizer
        run = prepare(Config.from_dict(config), tmp_path_factory.mktemp("unused"))
        assert run is not None
        return run

    return compile_with


@pytest.fixture(scope="module")
def compiled(compile_with):
    return compile_with("adamw")


@pytest.fixture
def train(compiled):
    return _trainer(compiled)


def _trainer(run):
    """Trains in a workdir; with stop_at=(step, signal) sends itself the signal before the step."""

    def train(workdir, stop_at=None, train_step=run.train_step):
        def step(state, key, batch):
            if stop_at is not None and state.step + 1 == stop_at[0]:
                os.kill(os.getpid(), stop_at[1])
            return train_step(state, key, batch)

        return train_and_evaluate(replace(run, workdir=workdir, train_step=step))

    return train


@pytest.fixture(scope="module")
def trained(compiled, tmp_path_factory):
    """A workdir with a run from the first to the last step."""
    workdir = tmp_path_factory.mktemp("trained")
    assert train_and_evaluate(replace(compiled, workdir=workdir)) is None
    return workdir


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_writes_metrics_checkpoints_and_pictures(trained):
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["10", "12"]
    lines = [line for line in _lines(trained) if "loss" in line]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(0 < line["loss"] < 2 and line["grad_norm"] > 0 for line in lines)
    assert lines[-1]["learning_rate"] < lines[0]["learning_rate"]
    Image.open(trained / "first_batch.png").verify()


def test_evaluates_and_shows_held_out_stories(trained):
    evaluations = [line for line in _lines(trained) if "generation/background" in line]
    assert [line["step"] for line in evaluations] == [8, 12]
    assert {name.split("/")[0] for name in evaluations[0]} == {"step", "generation", "extension"}
    assert all(0 < line["extension/psnr"] < 40 for line in evaluations)
    assert all(0 < line["generation/background_rms"] < 255 for line in evaluations)
    previews = sorted(path.name for path in (trained / "previews").iterdir())
    assert previews == ["step_000008.gif", "step_000008.png", "step_000012.gif", "step_000012.png"]
    with Image.open(trained / "previews" / "step_000012.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 2 * 2  # scenes x frames


def test_traces_the_steps_that_were_asked_for(compiled, tmp_path, capsys):
    train_and_evaluate(replace(compiled, workdir=tmp_path, profile_steps=2))
    assert f"traced 2 steps: {tmp_path}/profile" in capsys.readouterr().out
    (folder,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))
    trace = json.loads(gzip.decompress((folder / "perfetto_trace.json.gz").read_bytes()))
    steps = [event for event in trace["traceEvents"] if event.get("name") == "train"]
    assert {event["args"]["step_num"] for event in steps} == {"2", "3"}


def test_says_what_it_does(train, tmp_path, capsys):
    train(tmp_path)
    output = capsys.readouterr().out
    assert "0 of 12 done" in output
    assert re.search(r"step  8/12  loss 0\.\d{4}  [\d.]+ steps/s  \d+s left", output)
    assert f"Step 12 is saved in {tmp_path}/checkpoints/12" in output
    assert f"python -m m2dit_jax.sample --checkpoint={tmp_path}" in output


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(optimizer, compile_with, tmp_path):
    train = _trainer(compile_with(optimizer))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(whole) is None
    # Between two metrics lines: the means count the steps before the interruption too.
    assert train(stopped, stop_at=(6, signal.SIGTERM)) == signal.SIGTERM
    assert run_folder.latest_step(stopped) == 6
    assert train(stopped) is None
    assert _lines(stopped) == _lines(whole)
    one, other = _saved_state(stopped), _saved_state(whole)
    assert {"params", "ema", "opt_state"} < one.keys()
    jax.tree.map(_assert_same_bits, one, other)


def _saved_state(workdir):
    folder = workdir / "checkpoints" / "12" / "state"
    tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return ocp.PyTreeCheckpointer().restore(folder, restore_args=as_numpy)


def _assert_same_bits(one, other):
    np.testing.assert_array_equal(one, other, strict=True)
    assert one.tobytes() == other.tobytes(), "the sign of a zero differs"


@pytest.mark.slow
def test_two_devices_train_as_one_does(tiny_flags, tmp_path):
    command = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv.pop(1)))
from m2dit_jax import train
sys.exit(train.main())
"""
    steps = [f"--config.train.{name}=2" for name in ("steps", "eval_every", "eval_stories")]
    losses = []
    for devices in (1, 2):
        workdir = tmp_path / str(devices)
        run = subprocess.run(
            [
                *(sys.executable, "-c", command, str(devices)),
                *(*tiny_flags, *steps, "--config.train.warmup_steps=1", f"--workdir={workdir}"),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        assert f"mesh {{'data': {devices}, 'fsdp': 1, 'context': 1}}" in run.stdout
        trained, evaluated = _lines(workdir)
        assert trained["step"] == evaluated["step"] == 2
        assert "generation/background" in evaluated
        losses.append(trained["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, train, tmp_path, capfd):
    before = signal.getsignal(number)
    assert train(tmp_path, stop_at=(2, number)) == number
    assert signal.getsignal(number) is before
    output, errors = capfd.readouterr()
    assert f"{number.name}: saving after the steps under way; once more aborts at once" in errors
    assert f"Step 2 is saved in {tmp_path}/checkpoints/2; the same command goes on" in output


def test_a_signal_in_the_last_step_is_too_late(train, tmp_path):
    assert train(tmp_path, stop_at=(12, signal.SIGTERM)) is None


def test_a_finished_run_is_not_trained_again(trained, compiled, capsys):
    before = (trained / "metrics.jsonl").stat().st_mtime_ns
    assert prepare(compiled.config, trained) is None
    assert "nothing to do, all 12 steps are done" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").stat().st_mtime_ns == before


def _changed(config, **fields):
    """The config with fields such as train__steps=15 replaced."""
    for name, value in fields.items():
        section, _, field = name.partition("__")
        part = replace(getattr(config, section), **{field: value})
        config = replace(config, **{section: part})
    return config


def test_another_config_is_refused_and_the_difference_shown(trained, compiled):
    config = _changed(compiled.config, train__steps=15, model__mask="full", train__log_every=1)
    with pytest.raises(ValueError, match="holds a run with another config") as error:
        prepare(config, trained)
    message = str(error.value)
    assert "config.train.steps: there 12, here 15" in message
    assert "config.model.mask: there 'symmetric', here 'full'" in message
    assert message.count("there ") == 2
    assert "--override goes on with train.steps changed" in message
    with pytest.raises(ValueError, match="config.model.mask: there") as error:
        prepare(config, trained, override=True)
    assert "train.steps" not in str(error.value), "allowed by --override"


def test_fewer_steps_than_are_done_are_refused(trained, compiled):
    config = _changed(compiled.config, train__steps=11)
    with pytest.raises(ValueError, match="config.train.steps is 11, but the run in .* has done 12"):
        prepare(config, trained, override=True)


@pytest.mark.slow
def test_a_run_goes_on_with_what_changes_no_mathematics(compiled, trained, tmp_path):
    stopped = tmp_path / "run"
    assert _trainer(compiled)(stopped, stop_at=(6, signal.SIGTERM)) == signal.SIGTERM
    config = _changed(
        compiled.config,
        train__accumulate=2,
        train__checkpoint_every=4,
        train__keep_checkpoints=5,
        train__eval_every=0,
        model__remat="full",
        model__attention="dense",
        sample__steps=3,
    )
    run = prepare(config, stopped)
    assert run is not None
    train_and_evaluate(run)
    saved = sorted(int(path.name) for path in (stopped / "checkpoints").iterdir())
    assert saved == [5, 6, 8, 12]
    for line, expected in zip(_lines(stopped)[1:], _lines(trained)[2:], strict=False):
        if "loss" in expected:
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.slow
def test_override_changes_the_learning_rate_and_the_record_says_so(compiled, tmp_path, capsys):
    assert _trainer(compiled)(tmp_path, stop_at=(6, signal.SIGTERM)) == signal.SIGTERM
    changes = {"train__learning_rate": 1e-5, "train__schedule": "constant", "train__steps": 16}
    config = _changed(compiled.config, train__eval_every=0, **changes)
    run = prepare(config, tmp_path, override=True)
    assert run is not None
    train_and_evaluate(run)
    assert "changed     config.train.learning_rate: before 0.001, now 1e-05" in (
        capsys.readouterr().out
    )
    line = _lines(tmp_path)[-1]
    assert (line["step"], line["learning_rate"]) == (16, pytest.approx(1e-5))
    record = read_record(tmp_path)
    first, second = (line for line in record if line["event"] == "start")
    assert [line["step"] for line in record if line["event"] == "ready"] == [1, 7]
    assert all(line["steps_per_second"] > 0 for line in record if line["event"] == "speed")
    assert (first["step"], first["changed"]) == (0, {})
    assert second["step"] == 6
    assert second["changed"]["train.steps"] == [12, 16]
    assert second["changed"]["train.learning_rate"] == [0.001, 1e-5]
    # From now on the new values are the run's.
    assert prepare(config, tmp_path) is None


@pytest.mark.slow
def test_checkpoints_are_saved_by_time_too(compiled, tmp_path):
    config = _changed(compiled.config, train__checkpoint_minutes=1e-6, train__keep_checkpoints=9)
    run = replace(compiled, recipe=replace(compiled.recipe, config=config), workdir=tmp_path)
    train_and_evaluate(run)
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == [4, 5, 8, 10, 12], "at lines of metrics, and every 5 steps"
    recorded = [line["step"] for line in read_record(tmp_path) if line["event"] == "checkpoint"]
    assert recorded == saved


def test_a_folder_that_hosts_do_not_share_is_told_of(tmp_path):
    write_token(tmp_path / "here", "abc")
    assert token_problem(tmp_path / "here", "abc", seconds=0.0) is None
    problem = token_problem(tmp_path / "there", "abc", seconds=0.0)
    assert f"{tmp_path}/there: what process 0 wrote there is not to be seen on" in (problem or "")
    assert "--workdir must be a folder that all hosts share" in (problem or "")


def _with_bad_steps(compiled, bad):
    """A training step whose loss is not finite at these steps."""

    def step(state, key, batch):
        number = int(state.step) + 1
        kept = jax.tree.map(np.array, state.params)
        if number in bad:
            state = state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
        state = compiled.train_step(state, key, batch)
        if number in bad:
            state = state._replace(params=jax.tree.map(lambda x: jax.numpy.array(x), kept))
        return state

    return step


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_skipped_and_counted(train, compiled, tmp_path, capsys):
    assert train(tmp_path, train_step=_with_bad_steps(compiled, {3, 6, 7})) is None
    counts = [line.get("skipped_steps") for line in _lines(tmp_path) if "loss" in line]
    assert counts == [1, 3, 3]
    assert all(line["loss"] > 0 for line in _lines(tmp_path) if "loss" in line)
    assert "1 skipped, not finite" in capsys.readouterr().out
    found = run_folder.find_weights(tmp_path)
    assert found.step == 12
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.load()))


def test_too_many_steps_in_a_row_that_are_not_finite_stop_the_run(compiled, tmp_path):
    config = _changed(compiled.config, train__stop_after_skipped=3)
    run = replace(compiled, recipe=replace(compiled.recipe, config=config))
    with pytest.raises(NonFiniteLoss, match="steps 6 to 8 is not finite: 3 skipped") as error:
        _trainer(run)(tmp_path, train_step=_with_bad_steps(compiled, {3, *range(6, 13)}))
    assert f"The last checkpoint is {tmp_path}/checkpoints/5" in str(error.value)
    assert [line["step"] for line in _lines(tmp_path)] == [4]


def test_only_one_process_may_train_in_a_workdir(train, tmp_path):
    with (
        only_run_in(tmp_path),
        pytest.raises(CheckpointError, match="another process is training there"),
    ):
        train(tmp_path)


def test_a_workdir_that_is_no_folder_is_refused(train, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file: File exists; needs a folder to write to"):
        train(tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.batch_size": 0}, "config.train.batch_size must be between 1 and 1000000, got 0"),
        ({"train.warmup_steps": 12}, "warmup_steps must be less than config.train.steps 12"),
        (
            {"train.optimizer": "sgd"},
            "config.train.optimizer must be one of adamw, muon, got 'sgd'",
        ),
        ({"train.given_scenes": "none"}, "train.given_scenes must be one of all_but_last, any"),
        (
            {"model.mask": "round"},
            "config.model.mask must be one of symmetric, full, independent, ",
        ),
        ({"model.attention": "x", "model.mask": "y"}, "model.attention must be one of auto, dense"),
        ({"data.text_length": 7}, "takes 8 tokens"),
        ({"sample.steps": 2000}, "config.sample.steps must be at most config.diffusion.timesteps"),
        ({"seed": -1}, "config.seed must be between 0 and 4294967295, got -1"),
        ({"mesh.data": 3}, "needs 3 devices, but there are 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_anything_is_written(
    changes, message, tiny_config, tmp_path
):
    tiny_config.update_from_flattened_dict(changes)
    workdir = tmp_path / "workdir"
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(Config.from_dict(tiny_config), workdir)
    assert not workdir.exists()
