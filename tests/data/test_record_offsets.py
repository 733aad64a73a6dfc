from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.data.record_offsets import record_offsets
from m2dit_jax.data.remote_shards import RemoteShard
from m2dit_jax.utils.remote.places import RemoteFile


class Objects:
    """The part of a bucket that is read; it notes how much."""

    def __init__(self, file: Path):
        self.content, self.asked = file.read_bytes(), []

    def read_range(self, name, begin, end):
        self.asked.append((begin, end))
        return self.content[begin:end]


def write(path: Path, records) -> Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def remote(path: Path, records, keep: bool) -> tuple[Objects, RemoteShard]:
    """A shard that lies elsewhere under the name of a copy."""
    objects = Objects(path)
    offsets = record_offsets(path, len(records))
    file = RemoteFile(objects, path.name, len(objects.content))  # pyright: ignore
    return objects, RemoteShard(path.with_name("copy"), file, offsets, keep)


@settings(max_examples=15, deadline=None)
@given(
    # Around the size of a block of the file, and far beyond it.
    st.lists(st.integers(0, 300_000) | st.integers(65_300, 65_600), min_size=1, max_size=12),
    st.booleans(),
)
def test_each_record_is_read_by_itself(tmp_path_factory, sizes, keep):
    records = [np.random.default_rng(n).bytes(size) for n, size in enumerate(sizes)]
    path = write(tmp_path_factory.mktemp("shard") / "x", records)
    objects, shard = remote(path, records, keep)
    for number in reversed(range(len(records))):
        assert shard.read([number]) == [records[number]]
    assert len(objects.asked) == 2 + len(records)


def test_what_was_fetched_is_kept_for_the_next_process(tmp_path):
    records = [b"a" * 1000, b"b" * 70_000, b"c"]
    path = write(tmp_path / "x", records)
    remote(path, records, True)[1].read([1])
    objects, shard = remote(path, records, True)
    assert shard.read([1, 2]) == records[1:]
    assert len(objects.asked) == 1  # of the last record
    # What is noted and not there, as after a power cut, is fetched again.
    begin, end = record_offsets(path, 3)[1:3]
    with (tmp_path / ".copy.part").open("r+b") as holes:
        holes.seek(begin)
        holes.write(b"\0" * (end - begin))
    assert shard.read([1]) == records[1:2]
    assert not (tmp_path / "copy").exists()


def test_another_file_is_refused(tmp_path):
    path = write(tmp_path / "x", [b"1" * 100, b"2"])
    for count in (3, 1000):
        with pytest.raises(ValueError, match="x: "):
            record_offsets(path, count)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(ValueError, match="x: "):
        record_offsets(path, 2)
