"""One dataset from several hosts, of which one is killed: the same bytes as from one."""

import signal

import pytest

from m2dit_jax import encode
from m2dit_jax.data.encoded import EMPTY_CAPTION, EncodedDataset
from tests.test_encode import (
    COLOURS,
    PIXELS,
    contents,
    interrupt,
    of_manifest,
    write_manifest,
    write_video,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty stories, a shard each with --shard_scenes=1."""
    root = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        write_video(root / f"{name}.mp4", colour=colour)
    names = [f"{name}.mp4" for name in COLOURS]
    write_manifest(root / "many.jsonl", {f"s{n}": [names[n % 3]] for n in range(40)})
    return root / "many.jsonl"


@pytest.mark.slow  # five encodings, of which one is a process that is killed
def test_four_hosts_one_of_them_killed_make_the_bytes_of_one(many, tmp_path, capsys):
    flags = [*PIXELS, "--shard_scenes=1", "--workers=1"]
    assert encode.main([*of_manifest(many, tmp_path / "one"), *flags]) == 0
    four = [*of_manifest(many, tmp_path / "four"), *flags]
    for part in ("--part=1/4", "--part=4/4"):
        assert encode.main([*four, part]) == 0
    killed = interrupt([*four, "--part=2/4"], signal.SIGKILL, "progress/0000[159].json")
    assert killed == -signal.SIGKILL
    capsys.readouterr()
    assert encode.main([*four, "--join"]) == 1
    lines = capsys.readouterr().err
    assert "of 40 shards are missing" in lines and "--part=3/4 (not begun): 2, 6, 10" in lines
    assert "--part=2/4 (begun on " in lines and "--part=1/4" not in lines
    # Another host takes the part over.
    for part in ("--part=2/4", "--part=3/4"):
        assert encode.main([*four, part]) == 0
    assert "part 3/4 is there: 10 of 40 shards, 10 scenes" in capsys.readouterr().out
    assert encode.main([*four, "--join"]) == 0
    assert contents(tmp_path / "four") == contents(tmp_path / "one")
    assert encode.main([*four, "--part=1/4"]) == 0
    assert "was finished before" in capsys.readouterr().out


@pytest.mark.slow  # a released model is loaded
def test_the_first_part_has_the_empty_caption(golden, many, tmp_path, capsys):
    manifest = tmp_path / "one.jsonl"
    manifest.write_text(many.read_text().splitlines()[0])
    flags = [f"--codec={golden / 'pipe_5b'}", *PIXELS[1:], f"--root={many.parent}", "--workers=1"]
    command = [*of_manifest(manifest, tmp_path / "set"), *flags]
    assert encode.main([*command, "--part=1/2"]) == 0
    path = tmp_path / "set" / EMPTY_CAPTION
    content = path.read_bytes()
    path.unlink()
    assert encode.main([*command, "--join"]) == 1
    assert ": the empty caption" in capsys.readouterr().err
    path.write_bytes(content)
    assert encode.main([*command, "--join"]) == 0
    assert EncodedDataset(tmp_path / "set").empty_caption.any()


def test_flags_that_do_not_go_together(capsys):
    given = ["--clips=x", "--output=y", "--codec=pixels"]
    assert encode.main([*given, "--part=1/2", "--join"]) == 2
    assert "--part cannot go with --join" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        encode.main([*given, "--part=3/2"])
    assert "argument --part: --part=3/2: is part 3 of 2" in capsys.readouterr().err
