"""Local copies and their limit."""

import json
import os
import subprocess
import sys

import pytest

from m2dit_jax.utils.remote import cache
from m2dit_jax.utils.remote.mirror import stamp


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Copies of 400 bytes each, by age, of which no process is left."""
    monkeypatch.setenv(cache.CACHE, str(tmp_path))
    monkeypatch.setenv(cache.LIMIT, "1e-6")  # 1000 bytes
    made = [tmp_path / name for name in ("old", "older", "oldest")]
    for age, path in enumerate(made):
        path.mkdir()
        (path / "x").write_bytes(b"1" * 400)
        os.utime(path, (1000 - age, 1000 - age))
    return made


def test_what_was_not_used_for_longest_goes_first(copies):
    old, older, oldest = copies
    cache.make_room(100)
    assert old.exists() and older.exists() and not oldest.exists()
    cache.make_room(601)
    assert not old.exists() and not older.exists()


def test_nothing_goes_without_a_limit_or_where_all_fits(copies, monkeypatch):
    monkeypatch.setenv(cache.LIMIT, "1")
    cache.make_room(10**6)
    monkeypatch.delenv(cache.LIMIT)
    cache.make_room(10**12)
    assert all(path.exists() for path in copies)


def test_what_is_in_use_stays_and_is_told(copies, capsys):
    _, older, oldest = copies
    for path in copies[1:]:
        cache.use(path)
    cache.make_room(500)
    assert older.exists() and oldest.exists() and not copies[0].exists()
    assert "what is in use takes 1.30 kB, more than M2DIT_CACHE_GB=1e-6" in capsys.readouterr().err


def test_what_a_process_used_that_has_ended_is_not_in_use(copies):
    code = "import sys, pathlib; from m2dit_jax.utils.remote.cache import use; "
    subprocess.run(
        [sys.executable, "-c", code + "use(pathlib.Path(sys.argv[1]))", str(copies[2])], check=True
    )
    os.utime(copies[2], (1, 1))
    cache.make_room(100)
    assert not copies[2].exists()


def test_what_a_bucket_does_not_have_yet_stays(copies):
    oldest = copies[2]
    run = oldest / "run"
    run.mkdir()
    (run / "a").write_text("1")
    known = {"index": "i", "files": {"a": [*stamp(run / "a"), "digest"]}}
    noted = oldest / f"run{cache.SYNCED}"
    noted.write_text(json.dumps(known))
    (run / "b").write_text("2")  # of a command that was killed
    os.utime(oldest, (1, 1))
    cache.make_room(100)
    assert oldest.exists()
    (run / "b").unlink()
    os.utime(oldest, (1, 1))
    cache.make_room(601)
    assert not oldest.exists()


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_a_wrong_limit_is_named(copies, monkeypatch, text):
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(ValueError, match="M2DIT_CACHE_GB: found"):
        cache.use(copies[0])
