import json
import random
from contextlib import suppress

import pytest

from m2dit_jax.utils import digests
from m2dit_jax.utils.digests import FILE, FileDigest
from tests.rot import damaged


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "whole"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"123456789")
    (folder / "empty").write_bytes(b"")
    (folder / "below" / "b.bin").write_bytes(random.Random(0).randbytes(5000))
    digests.write_digests(folder)
    return folder


def test_what_the_file_says(folder):
    # CBF43926 is the check value of CRC-32 in every catalogue of them.
    content = json.loads((folder / FILE).read_text())
    assert content["files"]["a.txt"] == {"bytes": 9, "crc32": ["cbf43926"]}
    assert content["files"]["empty"] == {"bytes": 0, "crc32": []}
    assert list(content["files"]) == ["a.txt", "below/b.bin", "empty"]
    assert content["format"] == 1 and content["chunk_bytes"] == 2**26
    assert digests.differences(folder) == []


def test_chunks_are_summed_one_by_one(tmp_path):
    (tmp_path / "x").write_bytes(b"123456789123456789123")
    found = digests.digest_files(tmp_path, ["x"], chunk_bytes=9)
    assert found == {"x": FileDigest(21, ("cbf43926", "cbf43926", "884863d2"))}


def test_subfolders_with_digests_of_their_own_are_not_covered(folder):
    digests.write_digests(folder / "below")
    digests.write_digests(folder)
    assert set(digests.read_digests(folder) or {}) == {"a.txt", "empty"}
    assert set(digests.read_digests(folder / "below") or {}) == {"b.bin"}


def test_every_difference_is_named(folder):
    (folder / "a.txt").write_bytes(b"123456780")
    (folder / "empty").write_bytes(b"x")
    (folder / "below" / "b.bin").unlink()
    (folder / "more").write_bytes(b"of no interest")
    with pytest.raises(ValueError) as caught:
        digests.check(folder)
    assert str(caught.value) == (
        f"{folder}: is damaged: below/b.bin is missing; empty has 1 bytes, needs 0; a.txt has "
        "changed between bytes 0 and 9 (CRC-32 b2288182, was cbf43926); copy it again, or delete "
        "its digests.json if that was changed on purpose (or set M2DIT_NO_VERIFY=1)"
    )
    assert digests.differences(folder, ["empty"]) == ["empty has 1 bytes, needs 0"]
    shares = [digests.differences(folder, share=(i, 2)) for i in range(2)]
    assert sorted(sum(shares, [])) == sorted(digests.differences(folder))


def test_the_environment_skips_it_and_that_is_said(folder, monkeypatch, capsys):
    (folder / "a.txt").write_bytes(b"123456780")
    monkeypatch.setattr(digests, "_said", set())
    monkeypatch.setenv(digests.SKIP, "1")
    digests.check(folder)
    digests.check(folder)
    assert capsys.readouterr().err == "M2DIT_NO_VERIFY=1: digests of files are not compared\n"
    monkeypatch.setenv(digests.SKIP, "0")
    assert digests.differences(folder)


def test_folders_without_digests_are_taken_as_they_are(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    digests.check(tmp_path)
    assert digests.read_digests(tmp_path) is None
    assert digests.read_digests(tmp_path / "nowhere") is None


def test_any_damage_of_a_file_or_of_the_digests_is_found(folder):
    rng = random.Random(1)
    for _ in range(300):
        path = folder / rng.choice(["a.txt", "below/b.bin", FILE])
        good = path.read_bytes()
        bad = damaged(good, rng)
        path.write_bytes(bad)
        digests._read_before.clear()  # the clock of files may be too coarse
        found = digests.differences(folder)
        path.write_bytes(good)
        same = bad == good
        if path.name == FILE:  # a line break that became a space means the same
            with suppress(ValueError):
                same = json.loads(bad) == json.loads(good)
        assert bool(found) != same


def test_the_hash_of_the_content_sees_the_middle_of_a_file(folder):
    names = digests.covered_files(folder)
    before = digests.content_hash(folder, names)
    content = bytearray((folder / "below/b.bin").read_bytes())
    content[2500] ^= 1
    (folder / "below/b.bin").write_bytes(content)
    assert digests.content_hash(folder, names) != before


def test_sealed_objects():
    sealed = digests.seal({"b": [1, "ü\udcff"], "a": None})
    assert sealed["b"] == [1, "ü\udcff"] and digests.is_sealed(json.loads(json.dumps(sealed)))
    assert not digests.is_sealed(sealed | {"a": 0})
    assert digests.is_sealed({"a": 0})  # of a version that sealed none
