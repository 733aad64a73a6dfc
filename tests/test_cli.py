"""An option that is declared shows up everywhere without a second edit."""

import argparse
import errno
import os
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from m2dit_jax import sample
from m2dit_jax.__main__ import COMMANDS
from m2dit_jax.cli import (
    WorkFailed,
    add_option_flags,
    as_flags,
    options_from_flags,
    options_given,
    run_command,
)
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.stories.docs import storyboard_page
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.settings import StoryOptions
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.errors import Superseded
from m2dit_jax.utils.files import atomic_write
from m2dit_jax.utils.options import declared, option
from tests.stories.fake_engine import FakeEngine

ROOT = Path(__file__).parent.parent
TEXTS = {bool: "", int: "2", float: "0.5", str: "words"}


class MoreOptions(SamplingOptions, frozen=True):
    """The options and a new one."""

    sharpness: float = option(0.0, "How sharp it becomes.", affects="latents")


def parse(model, argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_option_flags(parser, model, "options")
    return parser.parse_args(argv), parser.format_help()


def test_a_new_field_is_a_flag_with_help_and_check():
    flags, text = parse(MoreOptions, ["--sharpness=0.5"])
    assert options_given(flags, MoreOptions) == {"sharpness": 0.5}
    assert "How sharp it becomes (default: 0.0; a finite number)" in " ".join(text.split())
    with pytest.raises(ValueError, match="sharpness: found 'very', needs a finite number"):
        MoreOptions(**options_given(parse(MoreOptions, ["--sharpness=very"])[0], MoreOptions))


@pytest.mark.parametrize("name", StoryOptions.model_fields)
def test_every_option_is_a_flag_a_storyboard_field_and_recorded(name):
    field = declared(StoryOptions)[name]
    value = field.choices[0] if field.choices else TEXTS[field.kind]
    argv = [f"--{name}"] if field.kind is bool else [f"--{name}", value]
    flags = sample._parser().parse_args(["--checkpoint=a", "--storyboard=b", "--output=c", *argv])
    given = options_given(flags, StoryOptions)
    assert list(given) == [name]
    board = Storyboard.from_mapping({"scenes": [{"prompt": "a"}]}).override(given)
    assert name in board.to_mapping()
    in_file = Storyboard.from_mapping(board.to_mapping())
    assert getattr(in_file, name) == getattr(board, name)
    if name in ("frames", "height", "width", "new_scenes"):  # the model decides what can be
        return
    assert name in plan_story(board, FakeEngine()).to_mapping()
    assert field.affects is not None and field.description.endswith(".")
    assert f"| `{name}` |" in storyboard_page()


def test_a_wrong_value_has_one_message_wherever_it_comes_from(tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text("scenes: [{prompt: a}]\nsteps: 0\n")
    problem = "steps: found 0, needs a whole number, from 1 to 100000"
    with pytest.raises(StoryboardError, match=f"story.yaml:2: {problem}"):
        Storyboard.read(path)
    board = Storyboard.from_mapping({"scenes": [{"prompt": "a"}]})
    with pytest.raises(StoryboardError, match=f"--{problem}"):
        board.override({"steps": 0}, "--")
    flags, _ = parse(SamplingOptions, ["--steps=0"])
    with pytest.raises(ValueError, match=f"^--{problem}"):
        options_from_flags(flags, SamplingOptions())
    with pytest.raises(StoryboardError, match=f"^{problem}"):
        board.override({"steps": 0})
    with pytest.raises(ValueError, match=problem):
        SamplingOptions(steps=0)


def test_flags_can_be_written_back():
    given = {"steps": 4, "dynamic_guidance": False, "sampler": "dpm"}
    flags, _ = parse(SamplingOptions, as_flags(given))
    assert options_given(flags, SamplingOptions) == given


def test_the_page_of_the_docs_is_up_to_date():
    assert (ROOT / "docs" / "storyboards.md").read_text(encoding="utf-8") == storyboard_page()


def test_errors_become_statuses(capsys):
    def fail(error):
        raise error

    assert run_command(lambda: None) == 0
    assert run_command(lambda: fail(ValueError("seed: found -1"))) == 2
    assert run_command(lambda: fail(KeyboardInterrupt()), "goes on") == 130
    assert capsys.readouterr().err == "seed: found -1\n\ngoes on\n"
    with pytest.raises(RuntimeError):
        run_command(lambda: fail(RuntimeError()))


def test_a_disk_that_is_full_is_named_with_the_file(tmp_path, capsys):
    def write():
        with atomic_write(tmp_path / "report.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert run_command(write) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{tmp_path}/report.json: No space left on device (disk /")
    assert message.endswith("; once there is room, the same command goes on\n")
    assert message.count("\n") == 1


def test_what_libraries_say_of_a_disk_is_no_traceback(capsys):
    def fail():
        raise RuntimeError("RESOURCE_EXHAUSTED: write: Disk quota exceeded [source locations=...")

    assert run_command(fail) == 2
    assert "Disk quota exceeded" in capsys.readouterr().err


def test_failed_work_and_a_commands_own_status(capsys):
    def fail():
        raise WorkFailed("out of memory?")

    assert run_command(fail) == 1 and run_command(lambda: 1) == 1
    assert capsys.readouterr().err == "out of memory?\n"


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if name not in ("train", "evaluate")]
)
def test_help_has_an_example_that_the_parser_takes(command, capsys):
    module = import_module(f"m2dit_jax.{command}")
    text = module._parser().format_help()
    examples = [line for line in text.splitlines() if line.startswith("Example: ")]
    assert examples
    for example in examples:
        words = shlex.split(example.removeprefix("Example: m2dit "))
        assert words[0] == command
        # Of a config there are more flags, which another parser reads.
        _, others = module._parser().parse_known_args(words[1:])
        assert all(flag.startswith(("--config=", "--config.")) for flag in others)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_help_says_of_each_flag_what_holds_without_it(command):
    module = import_module(f"m2dit_jax.{command}")
    if command == "evaluate":
        parsers = [program.parser(name) for name, program in module.PROGRAMS.items()]
    else:
        parsers = [module._parser()]
    for parser in parsers:
        for action in parser._actions:
            if not action.option_strings or action.required or action.dest == "help":
                continue
            assert "default" in (action.help or ""), (parser.prog, action.option_strings)


def test_work_whose_input_was_replaced_begins_again(capsys):
    left = [Superseded("runs/a/checkpoints/4: is gone"), Superseded("5")]

    def work():
        if left:
            raise left.pop(0)
        return 0

    assert run_command(work) == 0
    assert "runs/a/checkpoints/4: is gone: begun again" in capsys.readouterr().err
    left += [Superseded(str(number)) for number in range(9)]
    assert run_command(work) == 2
    assert len(left) == 5
