"""JSON is read with its name in every error; pipes, devices and folders are no files."""

import errno
import os

import pytest
from av.error import err_check

from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.files import atomic_write, check_file, read_json


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "狐"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, "狐"]}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b"\0", b"9" * 5000, b'"\xed\xa0\x80"']
)
def test_every_error_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: not readable as JSON"):
        read_json(tmp_path / "a.json")


def test_what_cannot_be_written_is_named_by_its_own_name_alone(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere" / "a.txt"):
        with pytest.raises(OSError) as error, atomic_write(place) as part:
            part.write_text("a")
        assert str(error.value).endswith(f": {str(place)!r}")


def test_a_librarys_error_that_keeps_its_name_is_told_of_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "a.mp4") as part:
        err_check(-errno.ENOSPC, str(part))  # PyAV's: its filename cannot be set
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.mp4"))


def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "device"):
        with pytest.raises(OSError, match="is a folder, pipe or device, needs a file"):
            check_file(path)
        with pytest.raises(StoryboardError, match="cannot be read"):
            Storyboard.read(path)
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        read_json(tmp_path / "none")
