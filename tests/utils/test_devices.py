import os
import subprocess
import sys
from pathlib import Path

import pytest

from m2dit_jax.utils.devices import prefer_available_platform

ROOT = Path(__file__).parents[2]


@pytest.fixture
def libtpu(tmp_path, monkeypatch):
    """A libtpu package whose library cannot be loaded, on an otherwise untouched machine."""
    package = tmp_path / "site" / "libtpu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def get_library_path(): return '/no/libtpu.so'\n")
    for name in ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH"):
        # setenv first, so that what the function sets is undone after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    return package.parent


@pytest.fixture
def dev(tmp_path):
    (tmp_path / "dev" / "vfio").mkdir(parents=True)
    (tmp_path / "dev" / "vfio" / "vfio").touch()
    return tmp_path / "dev"


def test_cpu_where_libtpu_has_no_tpu(libtpu, dev):
    prefer_available_platform(str(dev))
    assert os.environ["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("node", ["accel0", "vfio/0", "nvidia0", "nvidiactl", "dxg", "kfd"])
def test_an_accelerator_is_left_to_jax(libtpu, dev, node):
    (dev / node).touch()
    prefer_available_platform(str(dev))
    assert "JAX_PLATFORMS" not in os.environ


@pytest.mark.parametrize("choice", ["tpu", ""])
def test_the_user_decides(libtpu, dev, monkeypatch, choice):
    monkeypatch.setenv("JAX_PLATFORMS", choice)
    prefer_available_platform(str(dev))
    assert os.environ["JAX_PLATFORMS"] == choice


def test_nothing_to_do_without_libtpu(libtpu, dev, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    prefer_available_platform(str(dev))
    assert "JAX_PLATFORMS" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import jax", "pass"])
def test_jax_does_not_load_libtpu(libtpu, dev, first):
    code = f"""{first}
from m2dit_jax.utils.devices import prefer_available_platform
prefer_available_platform({str(dev)!r})
import jax
print(jax.devices()[0].platform)"""
    env = os.environ | {"PYTHONPATH": f"{libtpu}:{ROOT}", "JAX_LOGGING_LEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "cpu\n"
    assert "'tpu'" not in done.stderr
