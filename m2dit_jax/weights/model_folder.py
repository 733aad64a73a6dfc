"""Model folders: their networks, and the files that are copied as they are."""

import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from m2dit_jax.models.families import DEFAULT, NETWORK_NAMES, family_of, network_of
from m2dit_jax.models.family import Family, Json, NetworkSpec
from m2dit_jax.weights.networks import ORBAX, read_config
from m2dit_jax.weights.safetensors_files import is_weights_file

INDEX = "model_index.json"
FORMS = ("orbax", "diffusers")
T = TypeVar("T")


@dataclass(frozen=True)
class Component:
    """The folder of a network; `name` is its path in the model folder, "" if it is that itself."""

    name: str
    directory: Path
    network: NetworkSpec


def find_components(folder: Path) -> list[Component]:
    """The networks of a model folder, or the one whose folder it is.

    Raises ValueError if there is none, or one that `model_index.json` names is of an unknown kind.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    there = [name for name in NETWORK_NAMES if (folder / name).is_dir()]
    if not there and (folder / "config.json").is_file():
        family, kind = _read_class(folder, network_of)
        return [Component("", folder, family.networks[kind])]
    if not there:
        names = ", ".join(f"{name}/" for name in NETWORK_NAMES)
        raise ValueError(
            f"{folder}: needs at least one of {names}, or the config.json of one of them"
        )
    unknown = [name for name in unknown_networks(folder) if name in _named_in_index(folder)]
    if unknown:
        raise ValueError(
            f"{folder}: {INDEX} names the network {unknown[0]}, which this project does not know; "
            f"it knows {', '.join(NETWORK_NAMES)}"
        )
    family = _family(folder, there)
    return [Component(name, folder / name, family.networks[name]) for name in there]


def absent_networks(folder: Path) -> list[str]:
    """The networks that `model_index.json` names and the folder does not have."""
    named = _named_in_index(folder)
    return [name for name in NETWORK_NAMES if name in named and not (folder / name).is_dir()]


def unknown_networks(folder: Path) -> list[str]:
    """Other folders directly below that hold weights."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in NETWORK_NAMES and _holds_weights(path)
    )


def form_of(components: Collection[Component]) -> str:
    """The form of all components, one of FORMS. Raises ValueError if they differ."""
    forms: dict[str, str] = {}
    for component in components:
        directory = component.directory
        orbax = (directory / ORBAX).is_dir()
        if orbax and any(map(is_weights_file, directory.iterdir())):
            raise ValueError(f"{directory}: holds {ORBAX}/ and PyTorch weights; delete one of them")
        forms["orbax" if orbax else "diffusers"] = component.name
    if len(forms) > 1:
        raise ValueError(
            f"{forms['orbax']} is in Orbax form and {forms['diffusers']} is not; convert them alone"
        )
    return next(iter(forms))


def plain_files(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """Relative paths of all files but weights and what is hidden; `without` names subfolders."""
    for above, folders, files in os.walk(folder, followlinks=True):
        here = Path(above).relative_to(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != ORBAX and str(here / name) not in without
        )
        for name in sorted(files):
            if not name.startswith(".") and not is_weights_file(Path(name)):
                yield here / name


def _holds_weights(directory: Path) -> bool:
    return (directory / ORBAX).is_dir() or any(map(is_weights_file, directory.iterdir()))


def _named_in_index(folder: Path) -> list[str]:
    path = folder / INDEX
    if not path.is_file():
        return []
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        # [library, class]; [null, null] for a part that the pipeline does without
        return [name for name, value in index.items() if isinstance(value, list) and any(value)]
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as a JSON object ({error})") from error


def _family(folder: Path, networks: Collection[str]) -> Family:
    """The family that the first config of the networks names."""
    there = (folder / name for name in networks if (folder / name / "config.json").is_file())
    first = next(there, None)
    return DEFAULT if first is None else _read_class(first, family_of)


def _read_class(directory: Path, read: Callable[[Json], T]) -> T:
    config = read_config(directory)
    try:
        return read(config)
    except ValueError as error:
        raise ValueError(f"{directory}/config.json: {error}") from error
