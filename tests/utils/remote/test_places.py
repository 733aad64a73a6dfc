"""Addresses as commands take them: local folders and files that are brought to the bucket."""

import threading
import time
from pathlib import Path

import pytest

from m2dit_jax.utils.remote import cache, places
from m2dit_jax.utils.remote.bucket import Bucket, BucketError
from m2dit_jax.utils.remote.lease import NAME, Taken
from m2dit_jax.utils.remote.places import (
    close_places,
    named_place,
    place_beside,
    read_place,
    shared_place,
    written_file,
    written_file_or_folder,
    written_place,
)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "copies"))
    yield
    places._kept.clear()


def test_paths_stay_as_they_are(tmp_path):
    for take in (read_place, written_place, written_file):
        assert take(str(tmp_path / "here")) == tmp_path / "here"


def test_what_a_command_writes_is_in_the_bucket_when_it_ends(url):
    folder = written_place(f"{url}/")
    folder.mkdir(parents=True)
    (folder / "a").write_text("1")
    assert read_place(url) == folder  # of this command's own
    close_places()
    assert Bucket(url).read("a") == b"1" and Bucket(url).read(NAME) is None


def test_a_file_comes_first_from_the_bucket_and_goes_there_if_it_was_written(url):
    bucket = Bucket(f"{url}/page.html")
    bucket.write("", b"old")
    file = written_file_or_folder(f"{url}/page.html")
    assert file.read_text() == "old"
    close_places()
    assert bucket.read("") == b"old"
    written_file_or_folder(f"{url}/page.html").write_text("newer")
    close_places()
    assert bucket.read("") == b"newer"
    assert read_place(f"{url}/page.html").read_text() == "newer"


def test_nothing_in_the_bucket_is_told(url):
    with pytest.raises(BucketError, match="there is nothing"):
        read_place(url)


def test_the_lease_is_renewed_while_a_large_file_is_brought(url, monkeypatch):
    monkeypatch.setenv(places.PUSH_SECONDS, "0.05")
    monkeypatch.setattr(places, "_RENEW_SECONDS", 0.05)
    go_on, at_work, push = threading.Event(), threading.Event(), places.Mirror.push

    def slow(mirror):
        if threading.current_thread() is not threading.main_thread():
            at_work.set()
            go_on.wait(20)
        return push(mirror)

    monkeypatch.setattr(places.Mirror, "push", slow)
    written_place(url)
    assert at_work.wait(20)
    before = Bucket(url).read(NAME)
    deadline = time.monotonic() + 20
    while Bucket(url).read(NAME) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not go_on.is_set() and Bucket(url).read(NAME) != before
    go_on.set()
    close_places()


def test_one_place_that_cannot_be_closed_leaves_the_others_to_be_closed(url, monkeypatch):
    first, second = written_file(f"{url}/a.json"), written_file(f"{url}/b.json")
    first.write_text("1")
    second.write_text("2")
    upload = Bucket.upload

    def fail(bucket, *more):
        if bucket.url.endswith("b.json"):
            raise BucketError("the network is gone")
        upload(bucket, *more)

    monkeypatch.setattr(Bucket, "upload", fail)
    with pytest.raises(BucketError):
        close_places()
    assert Bucket(f"{url}/a.json").read("") == b"1"


def test_another_writer_is_refused(url, monkeypatch):
    def taken(_):
        raise Taken("process 7 on elsewhere")

    monkeypatch.setattr(places.Lease, "take", taken)
    with pytest.raises(BucketError, match=r"another process writes there \(process 7 on elsewhere"):
        written_place(url)


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf"])
def test_seconds_are_checked_before_anything_is_asked(text, monkeypatch):
    monkeypatch.setenv(places.PUSH_SECONDS, text)
    with pytest.raises(ValueError, match="M2DIT_PUSH_SECONDS: found"):
        written_place("s3://no-such-bucket/x")


def test_a_compile_cache_is_added_to_by_many(url):
    first = shared_place(url)
    (first / "cpu").mkdir()
    (first / "cpu" / "one").write_text("1")
    close_places()
    bucket = Bucket(url)
    bucket.write("cpu/two", b"2")  # of another machine
    assert (shared_place(url) / "cpu" / "two").read_text() == "2"
    close_places()
    assert set(bucket.objects()) == {"cpu/one", "cpu/two"}


def test_what_files_name_may_lie_in_a_bucket_or_beside_them_there(url, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_named", {})
    bucket = Bucket(url)
    for name in ("story.yaml", "pictures/fox.png"):
        bucket.write(name, name.encode())
    story = read_place(f"{url}/story.yaml")
    for text in ("pictures/fox.png", f"{url}/pictures/fox.png"):
        assert place_beside(story.parent, text).read_text() == "pictures/fox.png"
    with pytest.raises(BucketError, match="nothing"):
        place_beside(story.parent, "pictures/wolf.png")
    assert place_beside(tmp_path, "a/b") == tmp_path / "a" / "b"
    assert named_place("~/a") == Path.home() / "a"
