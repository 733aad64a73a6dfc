"""Folders and their buckets, at real servers on this machine."""

import os
from pathlib import Path

import pytest

from m2dit_jax.utils.remote import mirror as mirror_module
from m2dit_jax.utils.remote.bucket import Bucket, BucketError, Object, is_remote
from m2dit_jax.utils.remote.mirror import INDEX, Mirror, Sharing
from tests.buckets import faulty


def write(folder: Path, **files: str):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.fixture
def here(url, tmp_path):
    mirror = Mirror(Bucket(url), tmp_path / "here")
    mirror.pull()
    return mirror


def there(here):
    """The folder as another machine finds it in the bucket."""
    other = Mirror(here.bucket, here.local.with_name("there"))
    other.pull()
    return content(other.local)


def test_what_is_written_here_is_found_there_and_only_what_changes_is_brought(here):
    write(here.local, a="1", deep__b="22", deep__deeper__c="")
    assert here.push() == 3
    assert there(here) == {"a": "1", "deep/b": "22", "deep/deeper/c": ""}
    write(here.local, a="one")
    (here.local / "deep" / "b").unlink()
    assert here.push() == 1
    assert there(here) == {"a": "one", "deep/deeper/c": ""}
    assert here.push() == 0
    assert set(here.bucket.objects()) == {"a", "deep/deeper/c", INDEX}


def test_what_is_being_written_stays_here(here):
    write(
        here.local,
        a="1",
        **{".b.7.part": "2", ".lock": "", "checkpoints__5.orbax-checkpoint-tmp__x": ""},
    )
    here.push()
    assert there(here) == {"a": "1"}


def test_a_killed_process_goes_on_with_its_files_unless_another_machine_wrote(here):
    write(here.local, a="1")
    here.push()
    write(here.local, a="not brought")
    again = Mirror(here.bucket, here.local)
    again.pull()
    assert content(again.local) == {"a": "not brought"}
    other = Mirror(here.bucket, here.local.with_name("there"))
    other.pull()
    write(other.local, a="of the other", b="too")
    other.push()
    again.pull()
    assert content(again.local) == {"a": "of the other", "b": "too"}


def test_what_was_brought_by_halves_does_not_count(here, monkeypatch):
    write(here.local, a="1")
    here.push()
    write(here.local, checkpoint__x="2", checkpoint__y="3")
    monkeypatch.setattr(here.bucket, "write", fail)  # of the index, which is written last
    with pytest.raises(BucketError):
        here.push()
    monkeypatch.undo()
    assert there(here) == {"a": "1"}
    here.push()
    assert set(there(here)) == {"a", "checkpoint/x", "checkpoint/y"}


def test_nor_of_a_first_push(here, monkeypatch):
    here.push()  # as when a place is opened
    write(here.local, checkpoint__x="2", checkpoint__y="3")
    monkeypatch.setattr(here.bucket, "write", fail)
    with pytest.raises(BucketError):
        here.push()
    monkeypatch.undo()
    other = Mirror(here.bucket, here.local.with_name("there"))
    assert other.pull() == 0
    again = Mirror(here.bucket, here.local)
    write(again.local, checkpoint__x="newer")
    again.pull()
    assert content(again.local) == {"checkpoint/x": "newer", "checkpoint/y": "3"}


def test_what_came_before_an_interruption_is_not_asked_for_again(here, monkeypatch):
    write(here.local, a="1", b="2", c="3")
    here.push()
    monkeypatch.setattr(mirror_module, "_SAVE_SECONDS", -1.0)
    other = Mirror(here.bucket, here.local.with_name("there"))
    download, asked = other.bucket.download, []

    def cut(name, *more):
        if len(asked) == 2:
            raise BucketError("the network is gone")
        asked.append(name)
        download(name, *more)

    monkeypatch.setattr(other.bucket, "download", cut)
    with pytest.raises(BucketError):
        other.pull()
    monkeypatch.setattr(other.bucket, "download", download)
    again = Mirror(here.bucket, other.local)
    assert again.pull() == 1
    assert content(again.local) == {"a": "1", "b": "2", "c": "3"}


def test_parts_have_indices_of_their_own_which_all_of_them_takes_over(url, tmp_path):
    def part(name: str, machine: str) -> Mirror:
        sharing = Sharing(name, lambda file: file.startswith("big"))
        mirror = Mirror(Bucket(url), tmp_path / machine, sharing)
        mirror.pull()
        return mirror

    one, two = part("part-1-of-2", "one"), part("part-2-of-2", "two")
    write(one.local, big_1="11", small_1="1", settings="same")
    write(two.local, big_2="22", small_2="2", settings="same")
    assert one.push() == 3 and two.push() == 3
    # What is light is here only until the bucket has it.
    assert set(content(one.local)) == {"small_1", "settings"}
    assert one.object_of(one.local / "big_1") == ("big_1", 2)
    assert one.object_of(one.local / "small_1") is None
    # On another machine, after the first was lost: nothing light is asked for.
    again = part("part-1-of-2", "three")
    assert content(again.local) == {"small_1": "1", "small_2": "2", "settings": "same"}
    assert again.object_of(again.local / "big_1") == ("big_1", 2)
    (again.local / "small_2").unlink()  # which is not its own
    assert again.push() == 0
    whole = part("", "four")
    assert set(content(whole.local)) == {"small_1", "small_2", "settings"}
    write(whole.local, end="!")
    (whole.local / "small_1").unlink()
    whole.push()
    names = {"big_1", "big_2", "small_2", "settings", "end"}
    assert set(whole.bucket.objects()) == {INDEX, *names}
    other = Mirror(whole.bucket, tmp_path / "there")
    other.pull()
    assert set(content(other.local)) == names


def fail(*_):
    raise BucketError("the network is gone")


def test_objects_of_other_programs_count_where_there_is_no_index(url, tmp_path):
    bucket = Bucket(url)
    bucket.write("clips/a.mp4", b"one")
    bucket.write("list.csv", b"two")
    mirror = Mirror(bucket, tmp_path / "here")
    assert mirror.pull() == 2
    assert content(mirror.local) == {"clips/a.mp4": "one", "list.csv": "two"}
    assert mirror.pull() == 0
    bucket.write("list.csv", b"owt")  # of the same size
    assert mirror.pull() == 1
    assert content(mirror.local)["list.csv"] == "owt"


@pytest.mark.parametrize("name", ["../b", "a/../../b"])
def test_no_object_is_written_outside_of_its_folder(url, tmp_path, name, monkeypatch):
    mirror = Mirror(Bucket(url), tmp_path / "here")
    monkeypatch.setattr(mirror.bucket, "objects", lambda: {name: Object(1, "x")})
    with pytest.raises(ValueError, match="no file's"):
        mirror.pull()
    assert not (tmp_path / "b").exists()


def test_a_damaged_index_is_named(here):
    here.bucket.write(INDEX, b"{")
    with pytest.raises(ValueError, match=r"index.json is damaged .* deleted, all objects there"):
        here.pull()


def test_a_bucket_that_is_not_there_is_one_line(scheme):
    with pytest.raises(BucketError) as error:
        Bucket(f"{scheme}://no-such-bucket/x", patience=1.0).write("a", b"1")
    assert "no-such-bucket" in str(error.value) and "\n" not in str(error.value)


def test_all_comes_through_a_network_that_drops_delays_and_cuts(scheme, url, tmp_path, monkeypatch):
    variable = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[scheme]
    files = {f"file_{number}": str(number) * 500 * number for number in range(4)}
    with faulty(int(os.environ[variable].rpartition(":")[2])) as port:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        mirror = Mirror(Bucket(url), tmp_path / "here")
        write(mirror.local, **files)
        assert mirror.push() == len(files)
        other = Mirror(Bucket(url), tmp_path / "there")
        other.pull()
    assert content(other.local) == files


def test_addresses_are_told_from_paths():
    assert is_remote("s3://a/b") and is_remote("gs://a")
    assert not is_remote("runs/base") and not is_remote("C:\\runs") and not is_remote("a:b")
    with pytest.raises(ValueError, match="gs:// or s3://"):
        is_remote("http://a/b")
    for url in ("s3://", "s3://a//b", "s3://a/../b", "gs://a/."):
        with pytest.raises(ValueError, match="needs .* name"):
            Bucket(url)


def test_a_server_that_is_gone_is_one_line_within_the_patience(monkeypatch):
    pytest.importorskip("s3fs", reason="optional extra: s3")
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(BucketError, match=r"^s3://stories/x: a cannot be written \(") as error:
        Bucket("s3://stories/x", patience=0.1).write("a", b"")
    assert "\n" not in str(error.value)
    assert os.environ["AWS_ENDPOINT_URL"] in str(error.value)
