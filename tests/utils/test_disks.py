import errno
import os

import pytest

from m2dit_jax.utils.disks import describe, disk_errno, in_words, writing
from m2dit_jax.utils.files import atomic_write


def failed(number, *more):
    return OSError(number, os.strerror(number), *more)


def test_the_error_of_the_disk_is_found_in_what_libraries_make_of_it():
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = ExceptionGroup("two", [KeyError(1), failed(errno.EDQUOT)])
    assert disk_errno(wrapped) == errno.EDQUOT
    tensorstore = 'RESOURCE_EXHAUSTED: Error writing "a": No space left on device [os_error_code'
    assert disk_errno(ValueError(tensorstore)) == errno.ENOSPC
    assert disk_errno(ValueError("write() failed: Permission denied")) == errno.EACCES
    assert disk_errno(ValueError("model.safetensors: Permission denied")) is None  # was read
    assert disk_errno(ValueError("seed: found -1")) is None
    assert disk_errno(FileNotFoundError(errno.ENOENT, "No such file or directory")) is None


def test_an_error_without_a_file_gets_its_name(tmp_path):
    message = "No space left on device: '.*/shard'"
    with pytest.raises(OSError, match=message) as caught, writing(tmp_path / "shard"):
        raise RuntimeError("write() failed: No space left on device; at byte 3145728")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(PermissionError) as caught, writing(tmp_path / "shard"):
        raise failed(errno.EACCES, "another")
    assert caught.value.filename == "another"
    with pytest.raises(ValueError, match="too long"), writing(tmp_path / "shard"):
        raise ValueError("too long")


def test_a_file_that_did_not_fit_is_named_by_its_own_name_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "report.json") as part:
        part.write_text("half")
        raise failed(errno.ENOSPC, str(part))
    assert caught.value.filename == str(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def test_one_line_names_file_problem_and_disk(tmp_path):
    line = describe(failed(errno.ENOSPC, str(tmp_path / "not" / "there")))
    assert line.startswith(f"{tmp_path}/not/there: No space left on device (disk /")
    assert line.endswith(" are free); once there is room, the same command goes on")
    line = describe(failed(errno.EROFS, str(tmp_path)))
    assert line.endswith("; once that is possible, the same command goes on")
    copied = OSError(errno.EFBIG, os.strerror(errno.EFBIG), "source", None, str(tmp_path / "copy"))
    assert describe(copied).startswith(f"{tmp_path}/copy: File too large")
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "story.yaml")
    assert describe(missing) == "[Errno 2] No such file or directory: 'story.yaml'"


def test_what_libraries_make_of_a_full_disk_is_a_line_too(tmp_path):
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = failed(errno.ENOSPC)
    line = in_words(wrapped)
    assert line and line.startswith("standard output, or a file, cannot be written: No space left")
    assert in_words(failed(errno.EROFS, "a")) == describe(failed(errno.EROFS, "a"))
    assert in_words(ValueError("seed: found -1")) is None
