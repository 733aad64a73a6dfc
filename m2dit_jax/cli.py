"""What the commands share: flags from declared options, the model's flags, errors to statuses.

Imports of what loads jax stand in the functions: commands without a model start at once.
"""

import argparse
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from m2dit_jax.utils.compile_cache import COMPILE_CACHE_HELP, keep_compiled
from m2dit_jax.utils.devices import prefer_available_platform
from m2dit_jax.utils.disks import in_words
from m2dit_jax.utils.errors import Superseded, WorkFailed
from m2dit_jax.utils.options import (
    MAX_COUNT,
    MAX_FRAMES,
    MAX_SEED,
    MAX_SIDE,
    MAX_WINDOW,
    Model,
    OptionError,
    OptionField,
    Options,
    declared,
    number_text,
    shown,
    wrong,
)
from m2dit_jax.utils.remote.bucket import is_remote
from m2dit_jax.utils.remote.places import (
    close_places,
    read_place,
    written_file,
    written_file_or_folder,
)
from m2dit_jax.utils.stopping import finish, when_stopped

if TYPE_CHECKING:
    from m2dit_jax.pipeline.pipeline import Pipeline


# Flags of paths that are written to; the others are read.
_WRITTEN = {
    **dict.fromkeys(("output", "workdir"), written_file_or_folder),
    **dict.fromkeys(("json", "sheet", "preview"), written_file),
}
_MOST_REPLACED = 3  # times that what is read may be replaced


def make_parser(command: str, description: str, *examples: str) -> "Parser":
    """A command's parser: flags are never abbreviated, --help ends with examples.

    A flag of type Path must not be empty: "" would be the current folder.
    """
    parser = Parser(
        prog=f"m2dit {command}",
        description=description,
        epilog="\n".join(f"Example: m2dit {command} {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.register("type", Path, _place)
    return parser


class Parser(argparse.ArgumentParser):
    """A parser whose paths may be addresses in buckets, looked at when all flags are known."""

    open_output: "Callable[[argparse.Namespace, str], Path] | None" = None
    """The function that opens an --output that is an address; it gets all flags."""

    # Overloaded there.
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """The flags, as of argparse, which ends the command where a bucket cannot be used."""
        found, others = super().parse_known_args(args, namespace)
        try:
            for name, value in vars(found).items():
                take: Callable[[str], Path] = _WRITTEN.get(name, read_place)
                if name == "output" and self.open_output is not None:
                    take = partial(self.open_output, found)
                if isinstance(value, _Address):
                    setattr(found, name, take(value))
                elif isinstance(value, list):
                    paths = [take(each) if isinstance(each, _Address) else each for each in value]
                    setattr(found, name, paths)
        except (OSError, ValueError) as error:
            self.error(str(error))
        return found, others

    def error(self, message: str) -> NoReturn:
        """Ends the command with the message, as of argparse; what was opened is closed."""
        with suppress(OSError):
            close_places()
        super().error(message)


class _Address(str):
    """An address in a bucket."""


def _place(text: str) -> Path | _Address:
    try:
        return _Address(filled(text)) if is_remote(text) else Path(filled(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def wrapped(name: str, text: str) -> str:
    """A name and what it is, as argparse sets them out."""
    lines = textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {name}\n{lines}"


def filled(text: str) -> str:
    """The type of a flag whose text must not be empty, nor hold a null character."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"found {shown(text)}, needs a name or path")
    return text


def bounded_int(low: int, high: int) -> Callable[[str], int]:
    """The type of a flag that is a whole number from `low` to `high`."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also for a number of more digits than Python reads
            value = None
        if value is None or not low <= value <= high:
            needed = f"a whole number, from {low} to {high}"
            raise argparse.ArgumentTypeError(wrong(text if value is None else value, needed))
        return value

    return whole_number


def bounded_float(low: int | float, high: int | float) -> Callable[[str], float]:
    """The type of a flag that is a number from `low` to `high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            needed = f"a number, from {number_text(low)} to {number_text(high)}"
            raise argparse.ArgumentTypeError(wrong(text if value is None else value, needed))
        return value

    return number


seed_number = bounded_int(0, MAX_SEED)
count = bounded_int(1, MAX_COUNT)
frame_count = bounded_int(1, MAX_FRAMES)
window_size = bounded_int(1, MAX_WINDOW)
side = bounded_int(1, MAX_SIDE)
processes = bounded_int(1, 4096)
port_number = bounded_int(1, 65_535)


def run_command(work: Callable[[], int | None], on_interrupt: str = "interrupted") -> int:
    """The exit status of a command: that of its work, 0 for None; else, after a message:

    1: the work failed (WorkFailed); 2: wrong input, or a place that cannot be written to
    (ValueError, OSError); 130 and 143: stopped by SIGINT or SIGTERM. Other exceptions pass
    through. Chooses the platform of jax first.
    """
    prefer_available_platform()
    when_stopped(on_interrupt)
    try:
        try:
            status = _with_what_is_new(work) or 0
        finally:
            close_places()
        return finish(status)
    except KeyboardInterrupt as stop:  # in another program, or of work with a handler of its own
        print(f"\n{on_interrupt}", file=sys.stderr)
        return finish(128 + (stop.args[0] if stop.args else signal.SIGINT))
    except WorkFailed as error:
        print(error, file=sys.stderr)
        return finish(1)
    except ValueError as error:
        print(error, file=sys.stderr)
        return finish(2)
    except Exception as error:
        line = in_words(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return finish(2)


def _with_what_is_new(work: Callable[[], int | None]) -> int | None:
    """Does the work, and anew if what it read was replaced meanwhile, as a training does."""
    for _ in range(_MOST_REPLACED):
        try:
            return work()
        except Superseded as error:
            print(f"{error}: begun again", file=sys.stderr)
    return work()


# --- flags of options that are declared once


def add_option_flags(
    parser: argparse.ArgumentParser, model: type[Options], title: str, leave_out: Sequence[str] = ()
) -> None:
    """Adds a flag for each option of a model, in a group; None where it is not given.

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
        elif option.choices:  # not argparse's, whose message would be another than a file's
            more["metavar"] = f"{{{','.join(option.choices)}}}"
        else:
            more["type"] = option.from_text
            more["metavar"] = {int: "N", float: "X"}.get(option.kind, "TEXT")
        group.add_argument(f"--{option.name}", **more)


def options_given(flags: argparse.Namespace, model: type[Options]) -> dict[str, Any]:
    """Options that were given as flags, by name; not checked yet."""
    values = {name: getattr(flags, name, None) for name in declared(model)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def options_from_flags(flags: argparse.Namespace, defaults: Model) -> Model:
    """The defaults with the options that were given as flags.

    Raises OptionError, naming the flags, for values that cannot be.
    """
    try:
        return defaults.replace(**options_given(flags, type(defaults)))
    except OptionError as error:
        problems = ((f"--{name}", problem) for name, problem in error.problems)
        raise OptionError(problems) from None


def as_flags(values: dict[str, Any]) -> list[str]:
    """Flags that would give these options."""
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
    """Adds the flags of `load_pipeline`: --checkpoint, --model, --lora, --dtype and others."""
    from m2dit_jax.models.masks import MASKS
    from m2dit_jax.pipeline.codecs import DECODERS
    from m2dit_jax.pipeline.memory import MEMORY
    from m2dit_jax.weights.released import DTYPES

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
    add_quantize_flag(group)
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="[EXPERT=]FILE[:WEIGHT]",
        help="LoRA to add to the transformer, a .safetensors file or a folder with one, several "
        "times for several (default: none; the weight is 1 where none is given); of a model of two "
        "transformers, high_noise= or low_noise= before it is for one of them",
    )
    group.add_argument(
        "--mask",
        choices=MASKS,
        help="attention mask of a released model (default: the one that it was trained with, else "
        "symmetric)",
    )
    group.add_argument(
        "--decoder",
        choices=DECODERS,
        help="how a VAE decodes (default: whole where the device's memory is enough, else strips)",
    )
    group.add_argument(
        "--memory",
        choices=MEMORY,
        default="auto",
        help="resident: all networks on the devices; offload, or turns: one at a time; stream: the "
        "transformer's blocks one at a time too; auto: the first of these that fits (default: "
        "auto)",
    )
    group.add_argument("--compile_cache", metavar="FOLDER", help=COMPILE_CACHE_HELP)
    group.add_argument(
        "--mesh",
        type=processes,
        metavar="N",
        help="devices that share the tokens of a story, for models with a VAE (default: as many "
        "as the transformer's heads are shared well by; it is said how many)",
    )


def add_quantize_flag(parser: Any) -> None:
    """Adds --quantize, one of `quantized.FORMS`."""
    from m2dit_jax.models.quantized import FORMS

    parser.add_argument(
        "--quantize",
        choices=FORMS,
        help="linear layers of transformer and text encoder in 8 bits; int8_w8a8 multiplies int8 "
        "too (default: no)",
    )


@contextmanager
def naming(flag: str) -> Iterator[None]:
    """A context in which errors of opening a model name flags, not a call's arguments.

    `flag` is the one that names the checkpoint.
    """
    from m2dit_jax.weights.run_folder import CheckpointError

    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{flag}: {error}") from error
    except ValueError as error:
        as_typed = re.sub(r"^(\w+)='([^']*)'", r"--\1=\2", str(error))
        if as_typed == str(error):
            raise
        raise ValueError(as_typed) from error


def load_pipeline(flags: argparse.Namespace) -> "Pipeline":
    """The pipeline that the flags name; it reports on stderr. Raises ValueError as `load` does."""
    from m2dit_jax.pipeline.load import load

    keep_compiled(flags.compile_cache)
    with naming("--checkpoint"):
        return load(
            flags.checkpoint,
            dtype=flags.dtype,
            decoder=flags.decoder,
            lora=flags.lora,
            model=flags.model,
            quantize=flags.quantize,
            mask=flags.mask,
            memory=flags.memory,
            mesh=flags.mesh,
            say=lambda line: print(line, file=sys.stderr),
        )
