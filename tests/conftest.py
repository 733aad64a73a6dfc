"""Set up before any test: shape checks, compilation cache, skips in CI; a tiny config."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from ml_collections import ConfigDict

# A shell that starts the tests in the background leaves SIGINT ignored, and the commands that they
# start and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Through the environment, so that processes started by tests share the cache. Everything is
# cached: the programs are small, and compiling them is most of what the tests do.
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Compiling is most of the time, and a step of the tiny model compiles in 2 s with these instead of
# 10. The parity test runs its command as users do, with the compiler's own settings.
_flags = "--xla_backend_optimization_level=0"
# XLA aborts the process for a flag that it does not know; jaxlib 0.12 no longer knows this one.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)

# Every function of the package checks its annotated array shapes; must precede its first import.
install_import_hook("m2dit_jax", "beartype.beartype")

from configs.base import get_config  # noqa: E402
from m2dit_jax.utils.devices import prefer_available_platform  # noqa: E402

prefer_available_platform()

_ALLOWED_SKIPS = ("needs ../shared", "optional extra:")


def pytest_configure(config):
    # jax's own size limit takes a lock and walks the folder at each write: instead start afresh
    # now and then. Only the process that starts the workers may do so.
    if not hasattr(config, "workerinput") and _CACHE.is_dir():
        size = sum(entry.stat().st_size for entry in _CACHE.iterdir())
        if size > 2**30:
            shutil.rmtree(_CACHE, ignore_errors=True)


def _fail_unexpected_skip(report):
    """In CI a missing dependency must not pass for success, so that a skip needs a known reason."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(_ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _fail_unexpected_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    # importorskip at the top of a module
    report = yield
    _fail_unexpected_skip(report)
    return report


# Trains in a blink: what is tested is the training, not what comes out of it.
TINY = {
    "data.size": 8,
    "data.frames": 2,
    "data.scenes": 2,
    "text_encoder.d_model": 16,
    "text_encoder.d_kv": 8,
    "text_encoder.d_ff": 16,
    "model.patch_size": 4,
    "model.patch_size_t": 2,
    "model.layers": 1,
    "model.heads": 1,
    "model.head_dim": 16,
    "model.time_dim": 16,
    "train.steps": 12,
    "train.warmup_steps": 2,
    "train.optimizer": "adamw",
    "train.learning_rate": 1e-3,
    "train.batch_size": 4,
    "train.log_every": 4,
    "train.checkpoint_every": 5,
    "train.eval_every": 0,
    "train.eval_stories": 4,
    "sample.steps": 2,
}


def _tiny_config() -> ConfigDict:
    config = get_config()
    config.update_from_flattened_dict(TINY)
    return config


@pytest.fixture(scope="session")
def make_tiny_config() -> Callable[[], ConfigDict]:
    return _tiny_config


@pytest.fixture
def tiny_config() -> ConfigDict:
    return _tiny_config()


@pytest.fixture(scope="session")
def tiny_flags() -> list[str]:
    """The same config as flags of the train command."""
    return ["--config=configs/base.py", *(f"--config.{name}={TINY[name]}" for name in TINY)]


def _simulate_devices(number: int) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", number)


@pytest.fixture(scope="session")
def on_eight_devices() -> Iterator[Callable]:
    """Runs a function of a test module in a process with 8 simulated devices.

    One such process serves all tests of a worker: starting jax takes seconds.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), _simulate_devices, (8,)) as pool:
        yield lambda function, *args: pool.submit(function, *args).result(timeout=600)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Files of the PyTorch reference: a subset that is checked in, or else the whole set."""
    tests = Path(__file__).parent
    for folder in (tests / "golden", tests.parent / "../shared/golden"):
        if folder.is_dir():
            return folder
    pytest.skip("needs ../shared/golden")
