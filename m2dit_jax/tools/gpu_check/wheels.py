"""Packages that the checked machine may lack, and wheels of them from a folder."""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Names to import and to install, and the parts that need them. All together take 21 MB.
PACKAGES: dict[str, tuple[str, str]] = {
    "absl": ("absl-py", "all parts"),
    "jaxtyping": ("jaxtyping", "all parts"),
    "wadler_lindig": ("wadler-lindig", "all parts, through jaxtyping"),
    "ml_collections": ("ml_collections", "all parts but devices"),
    "yaml": ("pyyaml", "all parts but devices"),
    "pydantic": ("pydantic", "all parts but devices"),
    "pydantic_core": ("pydantic-core", "all parts but devices"),
    "annotated_types": ("annotated-types", "all parts but devices"),
    "typing_inspection": ("typing-inspection", "all parts but devices"),
    "typing_extensions": ("typing-extensions", "all parts but devices"),
    "filelock": ("filelock", "all parts but devices"),
    "tokenizers": ("tokenizers", "parity, base"),
    "safetensors": ("safetensors", "parity, base"),
    "chex": ("chex", "base"),
    "tqdm": ("tqdm", "base"),
    "PIL": ("pillow", "base"),
    "grain": ("grain", "base"),
    "etils": ("etils", "base, through grain"),
    "fsspec": ("fsspec", "base, through etils"),
    "importlib_resources": ("importlib_resources", "base, through etils"),
    "zipp": ("zipp", "base, through etils"),
    "array_record": ("array_record", "base, through grain"),
    "cloudpickle": ("cloudpickle", "base, through grain"),
    "portpicker": ("portpicker", "base, through grain"),
    "psutil": ("psutil", "base"),
    "attr": ("attrs", "base, through grain"),
    "jinja2": ("jinja2", "base"),
    "markupsafe": ("markupsafe", "base, through jinja2"),
    "tensorboardX": ("tensorboardX", "base"),
    "google.protobuf": ("protobuf", "base, through tensorboardX"),
    "packaging": ("packaging", "base, through tensorboardX"),
}


def missing_packages() -> list[str]:
    """Names of PACKAGES that this Python cannot import."""
    return [name for name in PACKAGES if not _is_there(name)]


def add_wheels(folder: Path | None, target: Path, missing: Sequence[str]) -> Mapping[str, str]:
    """Installs what is missing from the wheels of a folder into `target`.

    Returns what stays missing, with the parts that need it; without a folder that is all.

    Without network and without dependencies: what is installed already stays as it is.
    """
    left = {}
    for name in missing:
        package, users = PACKAGES[name]
        if folder is None:
            left[name] = f"needed by {users}"
            continue
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet"]
        command += ["--disable-pip-version-check", "--upgrade"]
        done = subprocess.run(
            [*command, f"--find-links={folder}", f"--target={target}", package],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            left[name] = f"needed by {users}"
    return left


def collect_wheels(folder: Path, python: str) -> None:
    """Downloads wheels of all PACKAGES for Linux and a Python version, such as 3.12.

    Raises OSError if pip cannot get them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", "--implementation=cp", f"--dest={folder}"]
    command += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 28, 34)]
    command += ["--platform=manylinux2014_x86_64"]
    if subprocess.run([*command, *(package for package, _ in PACKAGES.values())]).returncode:
        raise OSError("pip could not download the wheels: see above")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it
        return False
