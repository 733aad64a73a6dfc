import errno
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from m2dit_jax.data.shards import ShardReaders

SHARDS, EACH = 40, 3


def record(index):
    return str(index).encode() * 1000


@pytest.fixture
def paths(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    paths = [tmp_path / f"{shard:02d}" for shard in range(SHARDS)]
    for shard, path in enumerate(paths):
        writer = ArrayRecordWriter(str(path), "group_size:1,zstd:1")
        for index in range(EACH * shard, EACH * (shard + 1)):
            writer.write(record(index))
        writer.close()
    return paths


def test_few_of_many_shards_are_open(paths):
    readers = ShardReaders(paths, [EACH] * SHARDS, most_open=4)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    assert len(readers) == EACH * SHARDS
    for index in [*range(0, EACH * SHARDS, 2), 5, 0, EACH * SHARDS - 1]:
        assert readers[index] == record(index)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_threads_may_read_what_others_drive_out(paths):
    readers = ShardReaders(paths, [EACH] * SHARDS, most_open=2)
    wanted = [7 * number % (EACH * SHARDS) for number in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(readers.__getitem__, wanted)) == [record(index) for index in wanted]


def test_empty_shards_and_pickling(paths):
    readers = ShardReaders([paths[0], Path("absent"), paths[1]], [2, 0, EACH])
    assert [readers[i] for i in range(5)] == [record(i) for i in (0, 1, 3, 4, 5)]
    assert pickle.loads(pickle.dumps(readers))[2] == record(3)
    assert readers.path(2) == paths[1]


def test_a_file_that_is_gone_is_an_error_of_the_system(paths):
    readers = ShardReaders(paths, [EACH] * SHARDS)
    paths[1].unlink()
    with pytest.raises(OSError) as error:
        readers[EACH]
    assert error.value.errno == errno.ENOENT and str(paths[1]) in str(error.value)


_TOO_FEW = """
import os, resource, sys
from pathlib import Path
from m2dit_jax.data.shards import ShardReaders
paths = sorted(Path(sys.argv[1]).iterdir())
readers = ShardReaders(paths, [3] * len(paths))
readers[0]
number = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (number - 1, number - 1))
try:
    readers[3]
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_too_few_descriptors_are_called_that(paths):
    command = [sys.executable, "-c", _TOO_FEW, str(paths[0].parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [str(errno.EMFILE), str(paths[1])], done.stderr
