import errno
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax._src.lru_cache import LRUCache

from m2dit_jax.utils import compile_cache
from m2dit_jax.utils.compile_cache import default_folder, keep_compiled

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_before():
    before = {name: jax.config.values[name] for name in OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_has_one_within_for_each_kind_of_cpu(tmp_path, monkeypatch):
    place = keep_compiled(str(tmp_path / "kept"))
    assert place is not None and place.parent == tmp_path / "kept" and place.is_dir()
    assert jax.config.values["jax_compilation_cache_dir"] == str(place)
    monkeypatch.setattr(compile_cache.platform, "processor", lambda: "another")
    assert keep_compiled(str(tmp_path / "kept")) != place


def test_empty_turns_it_off():
    assert keep_compiled("") is None
    assert jax.config.values["jax_enable_compilation_cache"] is False


def test_the_default_is_the_variable_or_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "there"))
    before = jax.config.values["jax_compilation_cache_dir"]
    assert keep_compiled(None) == tmp_path / "there"
    assert jax.config.values["jax_compilation_cache_dir"] == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compile_cache, "default_folder", lambda: tmp_path / "home")
    place = keep_compiled(None)
    assert place is not None and place.parent == tmp_path / "home"


@pytest.mark.skipif(sys.platform != "linux", reason="optional extra: the XDG folders of Linux")
def test_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "m2dit_jax" / "compiled"


def test_a_folder_that_cannot_be_is_refused_a_default_is_done_without(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--compile_cache: .*file.* cannot be written to"):
        keep_compiled(str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compile_cache, "default_folder", lambda: tmp_path / "file")
    assert keep_compiled(None) is None
    assert "nothing that is compiled is kept" in capsys.readouterr().err


SLOW = """
import sys, jax, jax.numpy as jnp
from m2dit_jax.utils import compile_cache
compile_cache._SECONDS = 0.0
compile_cache.keep_compiled(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((4, 4))).block_until_ready()
print(sum(name.endswith("/cache_hits") for name in hits))
"""


@pytest.mark.e2e
def test_a_second_start_compiles_nothing_again(tmp_path):
    def start(folder):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("JAX_")
        } | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", SLOW, str(folder)],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert start(tmp_path / "kept") == 0
    assert start(tmp_path / "kept") > 0
    assert start("") == 0


def test_what_is_compiled_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    place = keep_compiled(str(tmp_path))
    assert place is not None
    cache = LRUCache(str(place), max_size=-1)
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_bytes", full)
        cache.put("key", b"program")
    assert list(place.iterdir()) == [] and cache.get("key") is None
    cache.put("key", b"program")
    cache.put("key", b"another")
    assert cache.get("key") == b"program" and len(list(place.iterdir())) == 1
