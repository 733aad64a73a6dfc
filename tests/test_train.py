import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.base import get_config
from m2dit_jax.train import main, read_flags

REPOSITORY = Path(__file__).parent.parent
BASE = f"--config={REPOSITORY / 'configs' / 'base.py'}"


def test_reads_config_overrides_and_workdir():
    arguments = read_flags([BASE, "--config.train.steps=700", "--workdir=here"])
    assert arguments is not None
    config, workdir = arguments.config, arguments.workdir
    assert config.train.steps == 700
    assert config.train.checkpoint_every == get_config().train.checkpoint_every
    assert workdir == "here"


def test_the_workdir_is_named_after_the_config():
    arguments = read_flags([BASE])
    assert arguments is not None and arguments.workdir == "runs/base"


def test_help_shows_the_flags_and_the_fields_of_the_config(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "  --workdir\n" in output and "Example: m2dit train --config=base" in output
    assert "fields of the config, with the values of base.py:" in output
    assert f"  --config.train.steps={get_config().train.steps}\n      " in output
    assert "--config.data.paths" not in output  # which a world that is drawn does not read
    assert main(["--help", "--config=storyworld"]) == 0
    output = capsys.readouterr().out
    assert "values of storyworld.py:" in output and "--config.data.source=storyworld\n" in output


def test_a_warm_up_fits_itself_to_fewer_steps_and_says_so(capsys):
    arguments = read_flags([BASE, "--config.train.steps=40"])
    assert arguments is not None and arguments.config.train.warmup_steps == 4
    assert capsys.readouterr().err == (
        "config.train.warmup_steps: 4 instead of 100, as there are only 40 steps\n"
    )
    arguments = read_flags([BASE, "--config.train.steps=1"])
    assert arguments is not None and arguments.config.train.warmup_steps == 0
    arguments = read_flags([BASE, "--config.train.steps=101"])
    assert arguments is not None and arguments.config.train.warmup_steps == 100
    with pytest.raises(ValueError, match="warmup_steps must be less than config.train.steps 40"):
        read_flags([BASE, "--config.train.steps=40", "--config.train.warmup_steps=50"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([BASE, "--config.train.stepz=3"], "no such field; the nearest is --config.train.steps"),
        ([BASE, "--config.trian.steps=3"], "no such field; the nearest is --config.train.steps"),
        ([BASE, "--config.batchsize=3"], "no such field; the nearest is --config.train.batch_size"),
        ([BASE, "--noconfig.text_encoder.train"], "nearest is --config.text_encoder.trained"),
        (
            [BASE, "--config.train.steps=3.5"],
            "--config.train.steps=3.5: .*needs the type int, as in",
        ),
        (
            [BASE, "--config.train.steps=many"],
            "--config.train.steps=many: .*needs the type int, as in",
        ),
        (
            [BASE, "--config.text_encoder.trained=maybe"],
            "--config.text_encoder.trained=maybe: .*needs the type bool",
        ),
        (
            [BASE, "--config.train=3"],
            "--config.train: the config has no such field; the nearest is",
        ),
        ([BASE, "--config.train.steps"], "Missing value for flag --config.train.steps"),
        ([BASE, "--wrokdir=x"], "wrokdir.*workdir"),
        ([BASE, "more"], "unknown arguments: more"),
        ([], "needs --config=FILE"),
        (["--config.train.steps=3"], "needs --config=FILE"),
        (["--config=nowhere.py"], "--config=nowhere.py: no such file"),
        (["--config=configs"], "--config=configs: no such file"),
        ([f"{BASE}:tiny"], "takes 0 positional arguments but 1 was given"),
    ],
)
def test_flags_that_do_not_fit_get_a_message(flags, message, capsys):
    assert main(flags) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.search(message, errors)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("steps = 3", "has no attribute 'get_config'"),
        ("def get_config(", "SyntaxError"),
        ("def get_config():\n    return 1 / 0", r"ZeroDivisionError: .*config.py:2"),
        ("def get_config():\n    return 3", r"must return a ConfigDict"),
    ],
)
def test_a_file_that_is_no_config_gets_a_message(code, message, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(code)
    # In a process of its own: config_flags loads every config under the same module name.
    command = [sys.executable, "-m", "m2dit_jax.train", f"--config={path}"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert re.search(message, result.stderr)
    assert "needs a Python file with a function get_config()" in result.stderr or "must" in message
    assert "Traceback" not in result.stderr


def test_a_config_that_cannot_be_gets_a_message(tmp_path, capsys):
    workdir = tmp_path / "workdir"
    assert main([BASE, f"--workdir={workdir}", "--config.train.batch_size=-1"]) == 2
    assert (
        capsys.readouterr().err == "config.train.batch_size must be between 1 and 1000000, got -1\n"
    )
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["pretrain_5b", "finetune_5b", "finetune_2b"])
def test_the_full_size_configs_need_encoded_videos(name, tmp_path, capsys):
    workdir = tmp_path / "workdir"
    config = f"--config={REPOSITORY / 'configs' / name}.py"
    assert main([config, f"--workdir={workdir}"]) == 2
    assert "config.mesh {'data': 1, 'fsdp': 8, 'context': 1} needs 8" in capsys.readouterr().err
    here = ["--config.train.init_from=", "--config.mesh.fsdp=1"]
    assert main([config, f"--workdir={workdir}", *here]) == 2
    errors = capsys.readouterr().err
    assert "config.data.paths is empty; with config.data.source 'latents' it names" in errors
    assert not workdir.exists()
    # What is wrong with a config is told all the same.
    assert main([config, "--config.train.steps=0"]) == 2
    assert "config.train.steps must be between 1 and 1000000000, got 0" in capsys.readouterr().err


def test_shows_what_each_device_would_hold(tmp_path, capsys):
    assert main([BASE, f"--workdir={tmp_path / 'workdir'}", "--show_sharding"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"params/transformer/blocks/mlp/linear_1/kernel +3x192x768 +\(-, ", table)
    assert re.search(r"\n\d+ arrays, [\d,]+ bytes per device\n", table)
    assert not (tmp_path / "workdir").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=2"], "--coordinator=HOST:PORT, --processes=N and --process=I belong"),
        (["--coordinator=here:1", "--processes=2", "--process=2"], "less than --processes 2"),
        (["--profile=-1"], "profile"),
    ],
)
def test_processes_that_cannot_be_get_a_message(flags, message, capsys):
    assert main([BASE, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_gets_a_message(tmp_path, capsys):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert main([BASE, f"--workdir={tmp_path}"]) == 2
    assert f"{tmp_path}/checkpoints: every checkpoint is damaged:" in capsys.readouterr().err
