"""Where the configs and storyboards lie that flags name: a path, or the name of a shipped one."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from m2dit_jax.utils.remote.bucket import is_remote
from m2dit_jax.utils.remote.places import read_place

_IN_WHEEL = Path(__file__).parent / "shipped"  # hatch_build.py puts them there
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2] / "configs"


def find_config(name: str) -> Path:
    """The file of a config: `name` is a path, or a shipped one's name, such as `base`.

    Raises ValueError, with the nearest name and all others, if there is neither.
    """
    return _find("config", name, SHIPPED, ".py")


def find_storyboard(name: str) -> Path:
    """The file of a storyboard: a path, an address in a bucket, or a shipped one's name.

    Raises ValueError, with the nearest name and all others, if there is neither.
    """
    if is_remote(name):
        return read_place(name)
    return _find("storyboard", name, SHIPPED / "storyboards", ".yaml")


def named_config(value: str) -> str:
    """The value of `--config` with the file's path in it, for ml_collections to read.

    `base` becomes `.../configs/base.py`; what follows a colon goes to the file's `get_config`, and
    stays: `base:tiny`. The file can then import its neighbours and the shipped configs, as in
    `from configs import base`, wherever the command runs. Raises ValueError as `find_config`.
    """
    # A colon may also be part of the path.
    name, colon, argument = (value, "", "") if Path(value).is_file() else value.partition(":")
    path = find_config(name)
    _offer_for_import(path.parent)
    # ml_collections takes the first colon for the argument's; Windows' drives have one.
    return f"{os.path.relpath(path) if ':' in str(path) else path}{colon}{argument}"


def with_named_config(argv: Sequence[str]) -> list[str]:
    """The arguments with the value of `--config` as `named_config` makes it."""
    named = list(argv)
    for i, argument in enumerate(named):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            named[i] = f"{flag}={named_config(value)}"
        elif i + 1 < len(named):
            named[i + 1] = named_config(named[i + 1])
    return named


def _find(kind: str, name: str, folder: Path, suffix: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    names = sorted(path.stem for path in folder.glob(f"*{suffix}"))
    if name in names:
        return folder / f"{name}{suffix}"
    nearest = difflib.get_close_matches(Path(name).stem, names, n=1, cutoff=0)[0]
    raise ValueError(
        f"--{kind}={name}: no such file, nor a shipped {kind}; the nearest is {nearest}, and there "
        f"are {', '.join(names)}"
    )


def _offer_for_import(folder: Path) -> None:
    """Has `import configs.NAME` look in a folder of that name first and in SHIPPED last."""
    try:
        package = importlib.import_module("configs")
    except ModuleNotFoundError:
        package = sys.modules["configs"] = ModuleType("configs")
    own = [str(folder.absolute())] if folder.absolute().name == "configs" else []
    package.__path__ = list(dict.fromkeys([*own, *getattr(package, "__path__", []), str(SHIPPED)]))
