"""Every number that a flag takes has a least and a greatest value."""

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from m2dit_jax import evaluate
from m2dit_jax.cli import bounded_float, bounded_int, filled, make_parser

COMMANDS = ("sample", "encode", "convert", "plan", "parity", "benchmark", "app", "page")
COMMANDS += ("benchmark_loader", "benchmark_video")
ABSURD = ("nan", "inf", "-inf", "-1", "1e400", "1" + 30 * "0", 5000 * "9", "", "many", "0x10")


def parsers():
    for name in COMMANDS:
        yield name, import_module(f"m2dit_jax.{name}")._parser()
    for name, program in evaluate.PROGRAMS.items():
        parser = make_parser(name, "", "")
        program.add_flags(parser)
        yield f"evaluate {name}", parser


NUMBERS = [
    pytest.param(action, id=f"{name} {action.option_strings[0]}")
    for name, parser in parsers()
    for action in parser._actions
    if getattr(action.type, "__name__", "") in ("whole_number", "number")
]


def test_no_flag_takes_any_number():
    for name, parser in parsers():
        for action in parser._actions:
            assert action.type not in (int, float), f"{name}: {action.option_strings}"


def test_there_are_flags_to_check():
    assert len(NUMBERS) > 30


@pytest.mark.parametrize("action", NUMBERS)
@pytest.mark.parametrize("text", ABSURD)
def test_absurd_numbers_are_refused_with_what_would_be_right(action, text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"^found .*, needs a .*, from .* to "):
        action.type(text)


@pytest.mark.parametrize("action", NUMBERS)
def test_defaults_are_in_their_range(action):
    if action.default is not None:
        assert action.type(str(action.default)) == action.default


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (bounded_int(1, 5), ("1", "5", " 3", "+2"), ("0", "6", "2.0")),
        (bounded_float(0, 0.5), ("0", "0.5", "1e-3"), ("0.51", "-1e-9")),
    ],
)
def test_bounds_belong_to_the_range(kind, good, bad):
    for text in good:
        assert kind(text) == float(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


def test_an_empty_path_is_not_the_current_folder(capsys):
    parser = make_parser("sample", "", "")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--codec", type=filled)
    assert parser.parse_args(["--output=a/b"]).output == Path("a/b")
    for flag in ("--output=", "--output= ", "--codec="):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([flag])
        assert ended.value.code == 2
        assert "needs a name or path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("encode", ["--frames=3000000"], "--frames: found 3000000, needs a whole number, from 1"),
        ("encode", ["--seed=4294967296"], "--seed: found 4294967296, needs a whole number"),
        ("encode", ["--workers=-1"], "--workers: found -1, needs a whole number"),
        ("encode", ["--time_limit=nan"], "--time_limit: found nan, needs a number, from 0.001"),
        ("app", ["--port=99999"], "--port: found 99999, needs a whole number, from 1 to 65535"),
        ("benchmark", ["--repeats=1"], "--repeats: found 1, needs a whole number, from 2 to"),
        ("sample", ["--output="], "--output: found '', needs a name or path"),
    ],
)
def test_commands_end_with_status_2_and_name_the_flag(command, flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(f"m2dit_jax.{command}").main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_last_storys_seed_is_a_seed(capsys):
    flags = ["--checkpoint=none", "--seed=4294967295", "--stories=2"]
    assert evaluate.main(flags) == 2
    assert "--seed=4294967295: the last story has seed 4294967296" in capsys.readouterr().err
