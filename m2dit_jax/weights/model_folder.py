"""Model folders: their networks, and the files that are copied as they are."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2dit_jax.models.families import DEFAULT, NETWORK_NAMES, family_of, network_of
from m2dit_jax.models.family import SECOND, Family, NetworkSpec
from m2dit_jax.utils.digests import FILE
from m2dit_jax.weights.networks import ORBAX, read_json, read_json_as
from m2dit_jax.weights.safetensors_files import is_weights_file, weights_files

INDEX = "model_index.json"
_READ = (INDEX, "m2dit.json", FILE)
_FOR_PEOPLE = (
    *(".md", ".txt", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg"),
    *(".mp4", ".webm"),
)
_SHOWN = 5  # names in a message
FORMS = ("orbax", "diffusers")


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
        family, kind = read_json_as(network_of, folder / "config.json")
        return [Component("", folder, family.networks[kind])]
    if not there:
        names = ", ".join(f"{name}/" for name in NETWORK_NAMES)
        raise ValueError(
            f"{folder}: needs at least one of {names}, or the config.json of one of them"
        )
    check_known(folder)
    family = _family(folder, there)
    try:
        return [Component(name, folder / name, family.network(name)) for name in there]
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def check_known(folder: Path) -> None:
    """Raises ValueError if `model_index.json` names a network that is there and unknown here."""
    named = _named_in_index(folder)
    unknown = [name for name in unknown_networks(folder) if name in named]
    if unknown:
        raise ValueError(
            f"{folder}: {INDEX} names the network {unknown[0]}, which this project does not know; "
            f"it knows {', '.join(NETWORK_NAMES)}"
        )


def read_index(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says, nothing without one."""
    return read_json(folder / INDEX) if (folder / INDEX).is_file() else {}


def boundary_ratio(folder: Path, family: Family) -> float:
    """Share of the timesteps below which the second transformer of a folder takes the steps.

    0.0 if it has one transformer. Raises ValueError for a second one without that share, for the
    share without a second one, and for a second one in a family that has none.
    """
    ratio, there = read_index(folder).get("boundary_ratio"), (folder / SECOND).is_dir()
    if there:
        family.network(SECOND)
    if ratio is None and not there:
        return 0.0
    if not (there and isinstance(ratio, float) and 0 < ratio < 1):
        raise ValueError(
            f"{folder}: needs {SECOND}/ and, in {INDEX}, a boundary_ratio between 0 and 1, or "
            f"neither; found {'' if there else 'no '}{SECOND}/, boundary_ratio {ratio!r:.50}"
        )
    return ratio


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


def unused(folder: Path, networks: Sequence[str] = NETWORK_NAMES) -> list[str]:
    """Files and folders, by relative path, that no part of the model is read from.

    Used are the index, `m2dit.json`, and of the folders of the networks, the scheduler and the
    tokenizer all but weights: of these the ones that `open_safetensors` or Orbax reads. Not listed
    is what explains a model: hidden files, texts, pictures, licences.
    """
    found: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name in networks and path.is_dir():
            found += _unused_weights(path)
        elif path.is_dir() and path.name not in ("scheduler", "tokenizer"):
            found += [f"{path.name}/"] * (not path.name.startswith("."))
        elif path.is_file() and path.name not in _READ and not _explains(path):
            found.append(path.name)
    return found


def unused_line(folder: Path) -> str:
    """A line that names what of a model folder is not used, "" if all is."""
    found = unused(folder)
    if not found:
        return ""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    line = f"{folder}: not used: {', '.join(found[:_SHOWN])}{more}"
    if any("lora" in name.lower() or "adapter" in name.lower() for name in found):
        line += " (adapters such as LoRA are applied where --lora asks for them)"
    return line


def _unused_weights(directory: Path) -> list[str]:
    """Weights in a network's folder beside those that are read, and folders."""
    try:
        used = {path.name for path in weights_files(directory)}
    except ValueError:  # opening them says more
        return []
    used |= {ORBAX} if (directory / ORBAX).is_dir() else set()
    return [
        f"{directory.name}/{path.name}{'/' * path.is_dir()}"
        for path in sorted(directory.iterdir())
        if path.name not in used
        and not _explains(path)
        and (path.is_dir() or path.suffix != ".json" or is_weights_file(path))
    ]


def _explains(path: Path) -> bool:
    """Whether a file is for people."""
    return (
        path.name.startswith((".", "README", "LICENSE", "LICENCE", "NOTICE", "COPYING"))
        or path.suffix.lower() in _FOR_PEOPLE
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
    """Relative paths of all files but weights, digests and what is hidden.

    `without` names subfolders that are left out.
    """
    for above, folders, files in os.walk(folder, followlinks=True):
        here = Path(above).relative_to(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != ORBAX and str(here / name) not in without
        )
        for name in sorted(files):
            if not name.startswith(".") and not is_weights_file(Path(name)) and name != FILE:
                yield here / name


def _holds_weights(directory: Path) -> bool:
    return (directory / ORBAX).is_dir() or any(map(is_weights_file, directory.iterdir()))


def _named_in_index(folder: Path) -> list[str]:
    # [library, class]; [null, null] for a part that the pipeline does without
    named = read_index(folder).items()
    return [name for name, value in named if isinstance(value, list) and any(value)]


def _family(folder: Path, networks: Collection[str]) -> Family:
    """The family that the first config of the networks names."""
    there = (folder / name for name in networks if (folder / name / "config.json").is_file())
    first = next(there, None)
    return DEFAULT if first is None else read_json_as(family_of, first / "config.json")
