"""What the commands share: flags from declared options, the model's flags, errors to statuses."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from m2dit_jax.pipeline.codecs import DECODERS
from m2dit_jax.pipeline.load import load
from m2dit_jax.pipeline.memory import MEMORY
from m2dit_jax.pipeline.pipeline import Pipeline
from m2dit_jax.utils.options import OptionField, Options, declared
from m2dit_jax.weights.released import DTYPES


def run_command(work: Callable[[], None], on_interrupt: str = "interrupted") -> int:
    """The exit status of a command: 0 done, 2 wrong input, 130 interrupted, after a message.

    Errors that are none of the user's pass through.
    """
    try:
        work()
    except KeyboardInterrupt:
        print(f"\n{on_interrupt}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


# --- flags of options that are declared once


def add_option_flags(
    parser: argparse.ArgumentParser, model: type[Options], title: str, leave_out: Sequence[str] = ()
) -> None:
    """A flag for each option of a model, in a group; None where it is not given.

    Values are text, or numbers where they look like some: `options_given` has them checked.
    """
    group = parser.add_argument_group(title)
    for option in declared(model).values():
        if option.name in leave_out or issubclass(option.kind, Options):
            continue
        more: dict[str, Any] = {"help": _help(option)}
        if option.kind is bool:
            more["action"] = argparse.BooleanOptionalAction
        elif option.many and option.choices:
            more["nargs"] = "*"
        elif option.choices:
            more["choices"] = option.choices
        else:
            more["type"] = option.from_text
            more["metavar"] = {int: "N", float: "X"}.get(option.kind, "TEXT")
        group.add_argument(f"--{option.name}", **more)


def options_given(flags: argparse.Namespace, model: type[Options]) -> dict[str, Any]:
    """The options that were given as flags, by name; not checked yet."""
    values = {name: getattr(flags, name, None) for name in declared(model)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def as_flags(values: dict[str, Any]) -> list[str]:
    """The flags that would give these options."""
    return [
        f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}"
        for name, value in values.items()
    ]


def _help(option: OptionField) -> str:
    needed = "" if option.kind is bool or option.choices else f"; {option.needed}"
    return f"{option.description.rstrip('.')} (default: {option.default_text}{needed})".replace(
        "%", "%%"
    )


# --- the model


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --model, --dtype, --decoder and --memory, as `load` takes them."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="workdir of a training run, folder of a released model, as it is or converted, or "
        "its name on the Hub",
    )
    group.add_argument(
        "--model",
        type=Path,
        help="for a run on latents: the folder of the released model that its videos were encoded "
        "with (default: config.train.init_from)",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of all networks (default: bfloat16 on accelerators, float32 on CPUs)",
    )
    group.add_argument(
        "--decoder",
        choices=DECODERS,
        help="how a VAE decodes (default: whole, large scenes in strips)",
    )
    group.add_argument(
        "--memory",
        choices=MEMORY,
        default="auto",
        help="turns: one network on the devices at a time; resident: all (default: auto)",
    )


def load_pipeline(flags: argparse.Namespace) -> Pipeline:
    """The pipeline that the flags name; it reports on stderr. Raises ValueError as `load` does."""
    return load(
        flags.checkpoint,
        dtype=flags.dtype,
        decoder=flags.decoder,
        model=flags.model,
        memory=flags.memory,
        say=lambda line: print(line, file=sys.stderr),
    )
