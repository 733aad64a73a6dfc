import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from m2dit_jax.data.encoded import (
    EncodedDataset,
    EncodedError,
    EncodedInfo,
    EncodedStory,
    Origin,
    count_kinds,
    shard_name,
)
from m2dit_jax.data.encoded_writing import finish_dataset, write_shard
from m2dit_jax.utils import digests
from m2dit_jax.utils.errors import NotFinite
from tests.rot import damaged

VAE = EncodedInfo("vae", "stories", 9, 16, 24, (3, 2, 3, 4), (5, 6), 0.7)
PIXELS = EncodedInfo("pixels", "clips", 2, 4, 6)


def make_story(info: EncodedInfo, number: int, scenes: int) -> EncodedStory:
    rng = np.random.default_rng(number)
    arrays = {
        name: rng.integers(0, 256, (scenes, *shape)).astype(dtype)
        for name, (shape, dtype) in info.arrays.items()
    }
    origins = [
        Origin(
            scene=scene + 1,
            place=f"line {number}",
            video="höhle\udcff.mp4",  # a name that is not UTF-8, as Python reads it
            start=None,
            end=1.5,
            source={"fps": 25.0},
            frames=[0, 3],
            metadata={"score": 0.1, "tags": ["<b>"]},
        )
        for scene in range(scenes)
    ]
    captions = [f"Prinzessin «{number}.{scene}» läuft 🐀" for scene in range(scenes)]
    return EncodedStory(name=f"story {number}", captions=captions, origins=origins, **arrays)


def write_dataset(path: Path, info: EncodedInfo) -> list[EncodedStory]:
    """Five stories in three shards, the middle one of which is empty."""
    path.mkdir(exist_ok=True)
    stories = [make_story(info, number, 1 + number % 3) for number in range(5)]
    parts = [stories[:2], [], stories[2:]]
    shards = [write_shard(path / shard_name(n, 3), info, part) for n, part in enumerate(parts)]
    embeds = np.full(info.text_shape, 0.5, ml_dtypes.bfloat16) if info.text_shape else None
    statistics = {"size": {"4 x 6": 9}, "fps": {}, "seconds": {}, "words": {}}
    counts = [len(story["captions"]) for story in stories]
    skipped = {"items": [{"place": "1", "video": "\udcff", "kind": "bad", "reason": "bad: 3"}]}
    finish_dataset(path, info, {"seed": 0}, shards, counts, statistics, skipped, embeds)
    return stories


def assert_same(found: EncodedStory, wanted: EncodedStory) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value


@pytest.mark.parametrize("info", [VAE, PIXELS], ids=["vae", "pixels"])
def test_stories_come_back(tmp_path, info):
    stories = write_dataset(tmp_path / "set", info)
    dataset = EncodedDataset(tmp_path / "set")
    assert (len(dataset), dataset.info, dataset.settings) == (5, info, {"seed": 0})
    assert dataset.scene_counts == (1, 2, 3, 1, 2)
    assert dataset.skipped()[0]["video"] == "\udcff"
    assert dataset.statistics["size"] == {"4 x 6": 9}
    for number in (4, 0, 2, 1, 3):
        assert_same(dataset[number], stories[number])
    for number in (-1, 5):
        with pytest.raises(IndexError, match=f"story {number} of 5"):
            dataset[number]


def test_a_pickled_dataset_reads_the_same(tmp_path):
    stories = write_dataset(tmp_path / "set", PIXELS)
    dataset = EncodedDataset(tmp_path / "set")
    dataset[0]  # an open file must not be in the way
    assert_same(pickle.loads(pickle.dumps(dataset))[3], stories[3])


def test_empty_caption(tmp_path):
    write_dataset(tmp_path / "vae", VAE)
    write_dataset(tmp_path / "pixels", PIXELS)
    embeds = EncodedDataset(tmp_path / "vae").empty_caption
    np.testing.assert_array_equal(embeds, np.full((5, 6), 0.5, ml_dtypes.bfloat16))
    with pytest.raises(ValueError, match="codec pixels keeps no text embeddings"):
        EncodedDataset(tmp_path / "pixels").empty_caption  # noqa: B018
    (tmp_path / "vae/empty_caption.safetensors").write_bytes(b"x")
    with pytest.raises(EncodedError, match="empty_caption.safetensors: is damaged"):
        EncodedDataset(tmp_path / "vae").empty_caption  # noqa: B018
    (tmp_path / "vae/empty_caption.safetensors").unlink()
    with pytest.raises(EncodedError, match="empty_caption.safetensors: is missing"):
        EncodedDataset(tmp_path / "vae").empty_caption  # noqa: B018


def test_the_same_stories_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_dataset(tmp_path / name, VAE)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 3 + 7


# Opened where nothing but tensorflow-datasets is imported, above all no TensorFlow.
_READ = """
import sys, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
source = builder.as_data_source("train")
story = source[4]
print(len(source), story["name"].decode(), story["mean"].dtype, story["mean"].shape)
print(story["mean"].tobytes().hex(), builder.info.metadata["info"]["scaling_factor"])
print("tensorflow" in sys.modules, "ml_dtypes" in sys.modules)
"""


def test_tensorflow_datasets_opens_it(tmp_path):
    stories = write_dataset(tmp_path / "set", VAE)
    command = [sys.executable, "-c", _READ, str(tmp_path / "set")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert lines[0] == "5 story 4 uint16 (2, 3, 2, 3, 4)"
    assert lines[1] == f"{stories[4].get('mean', np.empty(0)).tobytes().hex()} 0.7"
    assert lines[2] == "False False"


def test_unfinished_and_foreign_folders(tmp_path):
    with pytest.raises(EncodedError, match="is no output of"):
        EncodedDataset(tmp_path)
    (tmp_path / "progress").mkdir()
    with pytest.raises(EncodedError, match="is unfinished"):
        EncodedDataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (shard_name(2, 3), None, "00002-of-00003: is missing"),
        (shard_name(0, 3), b"short", "00000-of-00003: has 5 bytes, needs"),
        ("metadata.json", b"{", "metadata.json: is damaged"),
        ("metadata.json", b'{"format": "0.9.0"}', "has the format '0.9.0', needs '1.0.0'"),
        ("metadata.json", b'{"format": "1.0.0", "info": {}}', "metadata.json: is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    write_dataset(tmp_path / "set", PIXELS)
    path = tmp_path / "set" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(EncodedError, match=message):
        EncodedDataset(tmp_path / "set")


def test_rot_is_refused_or_read_as_it_was(tmp_path):
    """The files that are not records: any damage of what is read of them is named."""
    folder, rng = tmp_path / "set", random.Random(2)
    stories = write_dataset(folder, VAE)
    wanted = EncodedDataset(folder)
    names = [path.name for path in folder.iterdir() if "array_record" not in path.name]
    refused = 0
    for _ in range(150):
        path = folder / rng.choice(names)
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        digests._read_before.clear()  # the clock of files may be too coarse
        try:
            found = EncodedDataset(folder)
            assert (found.info, found.settings) == (wanted.info, wanted.settings)
            assert (found.scene_counts, found.statistics) == (
                wanted.scene_counts,
                wanted.statistics,
            )
            np.testing.assert_array_equal(found.empty_caption, wanted.empty_caption)
            assert_same(found[4], stories[4])
        except EncodedError as error:
            assert str(folder) in str(error)
            refused += 1
        path.write_bytes(good)
    assert refused > 40


def test_rot_of_records_is_refused(tmp_path):
    folder, rng = tmp_path / "set", random.Random(3)
    stories = write_dataset(folder, VAE)
    path = folder / shard_name(0, 3)
    good = path.read_bytes()
    for _ in range(100):
        path.write_bytes(damaged(good, rng))
        try:
            assert_same(EncodedDataset(folder)[0], stories[0])
        except EncodedError as error:
            assert str(folder) in str(error)
    changed = bytearray(good)
    changed[300] ^= 1
    path.write_bytes(changed)
    digests._read_before.clear()
    with pytest.raises(EncodedError, match=rf"{folder}: is damaged: {path.name} has changed"):
        EncodedDataset(folder).check()
    path.write_bytes(good)
    assert EncodedDataset(folder).check() > 2 * len(good)


def test_older_versions_wrote_no_digests(tmp_path):
    stories = write_dataset(tmp_path / "set", VAE)
    (tmp_path / "set/digests.json").unlink()
    path = tmp_path / "set/metadata.json"
    metadata = json.loads(path.read_text())
    for shard in metadata["shards"]:
        del shard["crc32"]
    path.write_text(json.dumps(metadata))
    dataset = EncodedDataset(tmp_path / "set")
    assert_same(dataset[4], stories[4])
    assert dataset.check() == 0


def test_wrong_counts_are_damage(tmp_path):
    write_dataset(tmp_path / "set", PIXELS)
    path = tmp_path / "set/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scene_counts": [1]}))
    with pytest.raises(EncodedError, match="5 stories in the shards, 1 counts"):
        EncodedDataset(tmp_path / "set")


def test_damage_inside_a_shard_is_found_when_read(tmp_path):
    write_dataset(tmp_path / "set", PIXELS)
    path = tmp_path / "set" / shard_name(0, 3)
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)
    dataset = EncodedDataset(tmp_path / "set")
    with pytest.raises(EncodedError, match="story 0 is damaged"):
        dataset[0]


def test_what_the_system_refuses_is_not_called_damaged(tmp_path):
    write_dataset(tmp_path / "set", PIXELS)
    dataset = EncodedDataset(tmp_path / "set")
    (tmp_path / "set" / shard_name(2, 3)).unlink()
    with pytest.raises(OSError, match="story 3 cannot be read: No such file.*00002-of-00003"):
        dataset[3]


def test_what_is_not_finite_is_not_written(tmp_path):
    story = make_story(VAE, 0, 2)
    story.get("text_embeds", np.empty(0))[1, 2, 3] = np.nan
    with pytest.raises(NotFinite, match="'story 0': text_embeds: 1 of 60 values are not finite"):
        write_shard(tmp_path / "shard", VAE, [story])
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_the_schema_is_not_written(tmp_path):
    story = make_story(PIXELS, 0, 2)
    for broken, message in (
        (story | {"captions": ["one"]}, r"pixels must be uint8 \(1, 2, 4, 6, 3\)"),
        (story | {"origins": []}, "2 captions, 0 origins"),
        ({k: v for k, v in story.items() if k != "pixels"}, "is nothing"),
        (story | {"pixels": np.zeros((2, 2, 4, 6, 3), np.int8)}, "is int8"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shard(tmp_path / "shard", PIXELS, [story, broken])
    assert not list(tmp_path.iterdir())


def test_info_says_what_belongs_together():
    with pytest.raises(ValueError, match="codec 'png' must be one of"):
        EncodedInfo("png", "clips", 1, 1, 1)
    with pytest.raises(ValueError, match="belong to the codec vae"):
        EncodedInfo("pixels", "clips", 1, 1, 1, scaling_factor=0.7)
    assert VAE.scene_nbytes == 2 * (3 * 2 * 3 * 4) * 2 + 5 * 6 * 2


def test_kinds_are_counted():
    items = [{"kind": kind, "place": "", "video": "", "reason": ""} for kind in "abb"]
    assert list(count_kinds(items).items()) == [("b", 2), ("a", 1)]
