"""Objects of real servers: every content comes back as it was written."""

import pytest

from m2dit_jax.utils.remote.bucket import Bucket

CONTENTS = [
    *(b"", b"\r", b"\n", b"\r\n", b"\n\r", b"a\r\r", b"--", b"a\n--==0==--b", b"a\r\n--==0==--"),
    *(bytes([last]) for last in (0, 9, 32, 45, 61, 127, 128, 255)),
]


def test_every_content_comes_back_as_it_was_written(url, tmp_path):
    bucket = Bucket(url)
    for number, content in enumerate(CONTENTS):
        file = tmp_path / "sent"
        file.write_bytes(content)
        ways = [
            lambda name, content=content: bucket.write(name, content),
            lambda name, content=content: bucket.create(name, content),
            lambda name, file=file: bucket.upload(file, name),
        ]
        name = str(number)
        ways[number % len(ways)](name)
        assert bucket.read(name) == content


@pytest.mark.parametrize("size", [(5 << 20) - 1, 5 << 20])
def test_a_file_of_any_size_comes_back(url, tmp_path, size):
    bucket, file = Bucket(url), tmp_path / "sent"
    file.write_bytes(b"\n" * (size - 1) + b"\r")
    bucket.upload(file, "object")
    bucket.download("object", tmp_path / "came", size)
    assert (tmp_path / "came").read_bytes() == file.read_bytes()
