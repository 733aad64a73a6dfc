"""The wheel: what is in it, and that it works where no checkout is."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import m2dit_jax

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.e2e

SOURCES = ("m2dit_jax", "configs", "tests", "docs", "typings")
BUILD_FILES = ("pyproject.toml", "requirements.txt", "hatch_build.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the checkout, without a network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("optional extra: hatchling, of the extra test")
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name)
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    flags = ["--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    done = subprocess.run([*command, *flags], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed, folder, *arguments):
    """Runs Python in a folder, where -P keeps it from being searched for modules."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_holds_the_package_and_the_configs_and_nothing_else(installed):
    def files(folder):
        return {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }

    metadata = f"m2dit_jax-{m2dit_jax.__version__}.dist-info"
    assert {path.name for path in installed.iterdir()} == {"m2dit_jax", metadata}
    shipped = Path("config", "shipped")
    assert files(installed / "m2dit_jax") == files(ROOT / "m2dit_jax") | {
        shipped / path for path in files(ROOT / "configs")
    }
    assert {path.suffix for path in files(installed / "m2dit_jax")} >= {".css", ".js", ".yaml"}


def test_it_is_small(wheel):
    assert wheel.stat().st_size < 1_000_000


def test_its_metadata(installed):
    folder = installed / f"m2dit_jax-{m2dit_jax.__version__}.dist-info"
    metadata = Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0" and (folder / "licenses/LICENSE").exists()
    extras = {"cuda12", "cuda13", "tpu", "app", "shots", "fonts", "eval"} | {
        "tensorboard",
        *("s3", "gs", "ray", "wandb"),
        "docs",
        "test",
    }
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    entry_points = (folder / "entry_points.txt").read_text()
    assert entry_points.split() == ["[console_scripts]", "m2dit", "=", "m2dit_jax.__main__:main"]


def test_its_dependencies_are_those_of_requirements_txt(installed):
    from packaging.requirements import Requirement

    folder = installed / f"m2dit_jax-{m2dit_jax.__version__}.dist-info"
    metadata = Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    # Those of extras name the extra; others may name a system.
    needed = [one for one in needed if "extra" not in str(one.marker)]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]

    def canonical(requirement):
        name = requirement.name.lower().replace("_", "-")
        return name, (requirement.specifier, str(requirement.marker))

    assert dict(map(canonical, needed)) == dict(map(canonical, listed))
    assert len(needed) == len(listed)


def test_its_commands_run_elsewhere(installed, tmp_path):
    done = python(installed, tmp_path, "-m", "m2dit_jax", "--version")
    assert done.stdout == f"m2dit_jax {m2dit_jax.__version__}\n"
    done = python(installed, tmp_path, "-m", "m2dit_jax", "train", "--config=shpaes")
    assert done.returncode == 2 and "the nearest is shapes" in done.stderr


OWN_CONFIG = """{}
def get_config(steps="7"):
    config = base.get_config()
    config.train.steps = int(steps)
    config.train.warmup_steps = 0
    return config
"""


@pytest.mark.parametrize(
    ("name", "files", "steps_and_layers"),
    [
        ("shapes", {}, "4000 3"),
        ("finetune_2b", {}, "10000 30"),
        ("own.py", {"own.py": OWN_CONFIG.format("from configs import base")}, "7 3"),
        (
            "configs/own.py:9",
            {
                "configs/own.py": OWN_CONFIG.format("from configs import neighbour as base"),
                "configs/neighbour.py": "from configs.finetune_5b import get_config",
            },
            "9 42",
        ),
    ],
)
def test_its_configs_and_those_that_inherit_from_them_are_read_elsewhere(
    name, files, steps_and_layers, installed, tmp_path
):
    for path, code in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code)
    code = (
        "from m2dit_jax.train import read_flags\n"
        f"config = read_flags(['--config={name}']).config\n"
        "print(config.train.steps, config.model.layers)"
    )
    done = python(installed, tmp_path, "-c", code)
    assert done.stdout == f"{steps_and_layers}\n", done.stderr
