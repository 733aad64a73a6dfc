import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file

from m2dit_jax import encode
from m2dit_jax.data.encode import job, parts, stories
from m2dit_jax.data.encode.codecs import VaeCodec
from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.data.manifest import Manifest
from m2dit_jax.data.story_table import ClipScene, ManifestStory
from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.models.coding import encode_prompts
from m2dit_jax.models.pixels import encode_pixels
from m2dit_jax.weights.released import ReleasedModel

pytestmark = pytest.mark.e2e

SIZES = ["--frames=5", "--height=16", "--width=32"]
PIXELS = ["--codec=pixels", *SIZES]


def write_video(path, frames=20, colour=(200, 60, 30), codec="mpeg4", height=48, width=72):
    """Of one colour that becomes brighter; enough to tell videos and frames apart."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            picture = np.full((height, width, 3), colour, float) * (0.5 + 0.5 * number / frames)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def write_manifest(path, stories):
    """`stories` maps names to lists of videos, each with a caption of its own."""
    lines = [
        {
            "name": name,
            "scenes": [{"video": video, "caption": f"{name} shows {video}"} for video in videos],
        }
        for name, videos in stories.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of three videos, and a manifest of stories of one to three of them."""
    root = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        write_video(root / f"{name}.mp4", colour=colour)
    names = [f"{name}.mp4" for name in COLOURS]
    stories = {
        f"story{n}": list(itertools.islice(itertools.cycle(names), n, 2 * n + 1)) for n in range(3)
    }
    write_manifest(root / "stories.jsonl", stories)
    return root


def command(*arguments):
    return [sys.executable, "-m", "m2dit_jax.encode", *map(str, arguments)]


def run(*arguments):
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def of_manifest(manifest, output):
    return [f"--manifest={manifest}", f"--output={output}"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pixels_from_videos_to_dataset(clips, tmp_path):
    done = run(*of_manifest(clips / "stories.jsonl", tmp_path / "set"), *PIXELS)
    assert done.returncode == 0, done.stderr
    assert "3 stories, 6 scenes of 5 frames of 16x32, codec pixels" in done.stdout
    assert "6 of 6 clips" in done.stderr and "clips/s" in done.stderr

    dataset = EncodedDataset(tmp_path / "set")
    assert dataset.scene_counts == (1, 2, 3)
    assert dataset.info.kind == "stories"
    assert dataset.skipped() == []
    assert dataset.statistics["size"] == {"72 x 48": 6}
    assert dataset.statistics["words"] == {"3": 6}
    for index, story in enumerate(dataset):
        assert story["name"] == f"story{index}"
        assert story["captions"] == [
            f"story{index} shows {origin['video']}" for origin in story["origins"]
        ]
        for scene, origin in enumerate(story["origins"]):
            numbers = origin["frames"]
            assert origin["scene"] == scene + 1
            assert set(np.diff(numbers)) == {3}  # the default stride; 20 frames are enough
            colour = np.asarray(COLOURS[Path(origin["video"]).stem])
            for frame, number in zip(cast(Any, story)["pixels"][scene], numbers, strict=True):
                wanted = colour * (0.5 + 0.5 * number / 20)
                assert np.abs(frame.mean((0, 1)) - wanted).max() < 12


def test_tensorflow_datasets_opens_it(clips, tmp_path):
    import tensorflow_datasets as tfds

    assert encode.main([*of_manifest(clips / "stories.jsonl", tmp_path / "set"), *PIXELS]) == 0
    source = tfds.builder_from_directory(tmp_path / "set").as_data_source("train")
    dataset = EncodedDataset(tmp_path / "set")
    assert len(source) == 3
    for theirs, ours in zip(source, dataset, strict=True):
        assert theirs["name"].decode() == ours["name"]
        assert [text.decode() for text in theirs["captions"]] == ours["captions"]
        np.testing.assert_array_equal(theirs["pixels"], ours["pixels"])


@pytest.mark.slow
def test_vae_and_text_encoder(golden, clips, tmp_path):
    folder = golden / "pipe_5b"
    flags = of_manifest(clips / "stories.jsonl", tmp_path / "vae")
    assert encode.main([*flags, f"--codec={folder}", *SIZES, "--batch_size=4"]) == 0
    flags = of_manifest(clips / "stories.jsonl", tmp_path / "pixels")
    assert encode.main([*flags, *PIXELS]) == 0

    model = ReleasedModel(folder)
    dataset, frames = EncodedDataset(tmp_path / "vae"), EncodedDataset(tmp_path / "pixels")
    assert dataset.info.scaling_factor == model.vae_config.scaling_factor
    vae, text_encoder = nnx.merge(*model.vae()), model.text_encoder()
    tokenizer = model.tokenizer()

    captions = [caption for story in dataset for caption in story["captions"]]
    rows = [
        pad_or_truncate(tokenizer, tokenizer(caption)["input_ids"], model.text_length)
        for caption in [*captions, ""]
    ]
    embeds = encode_prompts(text_encoder, jnp.asarray(rows)[None])[0]
    pixels = np.concatenate([cast(Any, story)["pixels"] for story in frames])
    mean, logvar = vae.encode(encode_pixels(pixels))
    wanted = {"mean": mean, "logvar": logvar, "text_embeds": embeds[:-1]}
    for name, array in wanted.items():
        found = np.concatenate([story[name] for story in dataset])
        assert found.dtype == ml_dtypes.bfloat16  # which keeps 8 bits
        np.testing.assert_allclose(found.astype(np.float32), array, rtol=2**-8, atol=2**-8)
    found = dataset.empty_caption.astype(np.float32)
    np.testing.assert_allclose(found, embeds[-1], rtol=2**-8, atol=2**-8)


@pytest.mark.slow
def test_batches_over_several_devices(golden, clips, tmp_path):
    flags = [f"--codec={golden / 'pipe_5b'}", *SIZES, "--batch_size=4"]
    manifest = clips / "stories.jsonl"
    assert encode.main([*of_manifest(manifest, tmp_path / "one"), *flags]) == 0
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    arguments = command(*of_manifest(manifest, tmp_path / "two"), *flags)
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    one, two = EncodedDataset(tmp_path / "one"), EncodedDataset(tmp_path / "two")
    assert one.settings == two.settings
    for story, other in zip(one, two, strict=True):
        for name in ("mean", "logvar", "text_embeds"):
            np.testing.assert_allclose(
                story[name].astype(np.float32), other[name].astype(np.float32), rtol=0.02, atol=0.02
            )


def test_sizes_may_come_from_a_config(clips, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from configs import base\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        "    config.data.frames, config.data.height, config.data.width = 3, 8, 16\n"
        "    return config\n"
    )
    flags = of_manifest(clips / "stories.jsonl", tmp_path / "set")
    assert encode.main([*flags, "--codec=pixels", f"--config={config}", "--width=24"]) == 0
    info = EncodedDataset(tmp_path / "set").info
    assert (info.frames, info.height, info.width) == (3, 8, 24)


# --- interruptions


@pytest.fixture(scope="module")
def many(clips):
    """Forty stories, a shard each with --shard_scenes=1."""
    names = [f"{name}.mp4" for name in COLOURS]
    write_manifest(clips / "many.jsonl", {f"s{n}": [names[n % 3]] for n in range(40)})
    return clips / "many.jsonl"


def interrupt(arguments, number, finished="progress/0*.json", nice=19):
    """Starts the command and sends it a signal after a few shards; returns its exit status."""
    output = Path(next(a for a in arguments if a.startswith("--output="))[9:])
    # Nice to this process, or on a busy machine it could be done before it is seen to have begun.
    polite = ["nice", "-n", str(nice), *command(*arguments)]
    with subprocess.Popen(polite, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 400
        while len(list(output.glob(finished))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        return process.wait()


def test_fields_of_the_config_may_be_changed(clips, tmp_path):
    flags = of_manifest(clips / "stories.jsonl", tmp_path / "set")
    sizes = ["--config.data.height=16", "--config.data.width=32"]
    assert encode.main([*flags, "--config=real_clips", "--config.data.frames=8", *sizes]) == 0
    info = EncodedDataset(tmp_path / "set").info
    assert (info.frames, info.height, info.width, info.codec) == (8, 16, 32, "pixels")
    with pytest.raises(SystemExit):  # as for any unknown flag
        encode.main([*flags, "--config=real_clips", "--config.train.steps=3"])


def test_a_folder_of_clips_with_captions_beside_them_is_encoded(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, colour in COLOURS.items():
        write_video(folder / f"{name}.mp4", colour=colour)
        (folder / f"{name}.txt").write_text(f"a {name} wall\n")
    command = [f"--clips={folder}", f"--output={tmp_path / 'data' / 'set'}", "--workers=1"]
    assert encode.main([*command, "--config=real_clips"]) == 0
    (line,) = (tmp_path / "data" / "set.jsonl").read_text().splitlines()
    scenes = json.loads(line)["scenes"]
    assert [scene["video"] for scene in scenes] == ["blue.mp4", "green.mp4", "red.mp4"]
    dataset = EncodedDataset(tmp_path / "data" / "set")
    assert list(dataset.scene_counts) == [3] and dataset.info.frames == 4
    assert encode.main([*command, "--config=real_clips"]) == 0  # again
    assert "was finished before" in capsys.readouterr().out
    (folder / "red.txt").write_text("a wall " * 20)
    other = [f"--output={tmp_path / 'other'}", *command[::2]]
    assert encode.main([*other, "--config=real_clips"]) == 0
    assert (
        "1 captions are longer than the 63 bytes that the model reads and are cut there; for "
        "all of them --config.data.text_length=140" in capsys.readouterr().err
    )
    assert encode.main([*command, "--config=real_clips"]) == 2
    assert "set.jsonl: lists other clips or captions than" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_restarted_it_writes_the_same_bytes(many, tmp_path):
    flags = [*PIXELS, "--shard_scenes=1", "--seed=3"]
    assert encode.main([*of_manifest(many, tmp_path / "whole"), *flags, "--workers=2"]) == 0
    again = [*of_manifest(many, tmp_path / "again"), *flags]
    assert interrupt([*again, "--workers=1"], signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "again/dataset_info.json").exists()
    shard = min((tmp_path / "again").glob("stories-*"))
    written = shard.stat().st_mtime_ns
    done = run(*again, "--workers=3")
    assert done.returncode == 0, done.stderr
    assert shard.stat().st_mtime_ns == written  # not done twice
    assert contents(tmp_path / "whole") == contents(tmp_path / "again")
    assert len(contents(tmp_path / "again")) == 40 + 7


@pytest.mark.slow
def test_what_rots_before_the_end_is_made_again(many, tmp_path):
    flags = [*PIXELS, "--shard_scenes=1", "--workers=1"]
    assert encode.main([*of_manifest(many, tmp_path / "whole"), *flags]) == 0
    again = tmp_path / "again"
    assert interrupt([*of_manifest(many, again), *flags], signal.SIGKILL) == -signal.SIGKILL
    shard = again / "stories-train.array_record-00000-of-00040"
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)
    (again / "progress/00001.json").write_text("")
    record = again / "progress/00002.json"
    record.write_text(record.read_text().replace('"fps"', '"fpz"'))
    assert encode.main([*of_manifest(many, again), *flags]) == 0
    assert contents(again) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_good_order(many, tmp_path, number):
    flags = [*of_manifest(many, tmp_path / "set"), *PIXELS, "--shard_scenes=1"]
    assert interrupt(flags, number) == 128 + number
    assert not list((tmp_path / "set").glob(".*.part"))
    assert encode.main(flags) == 0
    assert len(EncodedDataset(tmp_path / "set")) == 40


def test_finished_is_finished(clips, tmp_path, capsys):
    flags = [*of_manifest(clips / "stories.jsonl", tmp_path / "set"), *PIXELS]
    assert encode.main(flags) == 0
    before = contents(tmp_path / "set")
    capsys.readouterr()
    assert encode.main(flags) == 0
    assert "was finished before" in capsys.readouterr().out
    assert contents(tmp_path / "set") == before


def test_a_dataset_is_checked_on_request(clips, tmp_path, capsys):
    flags = [*of_manifest(clips / "stories.jsonl", tmp_path / "set"), *PIXELS]
    assert encode.main(flags) == 0
    assert encode.main([f"--check={tmp_path / 'set'}"]) == 0
    assert re.search(r"set: whole: 3 stories, [\d.]+ kB read in", capsys.readouterr().out)
    (tmp_path / "set/skipped.json").write_text("{")
    assert encode.main([f"--check={tmp_path / 'set'}"]) == 2
    assert "set: is damaged: skipped.json has 1 bytes, needs" in capsys.readouterr().err
    # The dataset is whole without it.
    assert encode.main(flags) == 0
    output = capsys.readouterr()
    assert "skipped.json: is damaged" in output.err and "was finished before" in output.out
    assert encode.main([f"--check={tmp_path / 'set'}", "--seed=1"]) == 2


def test_two_at_once_are_refused(clips, tmp_path, capsys):
    with parts.writing_all(tmp_path / "set"):
        flags = [*of_manifest(clips / "stories.jsonl", tmp_path / "set"), *PIXELS]
        assert encode.main(flags) == 2
    assert "another process is writing to it" in capsys.readouterr().err


def test_other_settings_are_refused(clips, tmp_path, capsys):
    flags = [*of_manifest(clips / "stories.jsonl", tmp_path / "set"), *PIXELS]
    assert encode.main(flags) == 0
    assert encode.main([*flags, "--seed=1", "--height=8"]) == 2
    message = capsys.readouterr().err
    assert "was begun with other settings" in message
    assert "seed: 0 there, 1 now" in message and "height: 16 there, 8 now" in message
    assert "stride" not in message


def test_other_settings_are_refused_in_the_middle_too(many, tmp_path, capsys):
    flags = [*of_manifest(many, tmp_path / "set"), *PIXELS, "--shard_scenes=1"]
    interrupt(flags, signal.SIGKILL)
    assert encode.main([*flags, "--stride=2"]) == 2
    assert "stride: 3 there, 2 now" in capsys.readouterr().err


def test_shards_of_many_scenes_are_larger_but_not_of_older_versions(many, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "MOST_SHARDS", 4)
    monkeypatch.setattr(job, "SHARD_SCENES", 5)
    flags = [*of_manifest(many, tmp_path / "new"), *PIXELS]
    assert encode.main(flags) == 0
    assert len(list((tmp_path / "new").glob("stories-*"))) == 4
    dataset = EncodedDataset(tmp_path / "new")
    assert len(dataset) == 40 and dataset.settings["most_shards"] == 4

    # What an older version began goes on with the shards that it had in mind.
    flags = [*of_manifest(many, tmp_path / "old"), *PIXELS]
    assert encode.main([*flags, "--shard_scenes=5"]) == 0
    assert "most_shards" not in EncodedDataset(tmp_path / "old").settings
    assert len(list((tmp_path / "old").glob("stories-*"))) == 8
    assert encode.main(flags) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "the embedding of the empty caption: 384 of 384 values are not finite"),
        ("story0", "story 'story0': text_embeds: 384 of 384 values are not finite"),
    ],
)
def test_embeddings_that_are_not_finite_are_refused(
    golden, clips, tmp_path, monkeypatch, capsys, bad, message
):
    embeds = VaeCodec._embeds

    def broken(codec, captions):
        factor = np.nan if any(text.startswith(bad) for text in captions) else 1
        return embeds(codec, captions) * factor

    monkeypatch.setattr(VaeCodec, "_embeds", broken)
    flags = of_manifest(clips / "stories.jsonl", tmp_path / "set")
    assert encode.main([*flags, f"--codec={golden / 'pipe_5b'}", *SIZES]) == 1
    assert message in capsys.readouterr().err


def test_a_foreign_folder_is_left_alone(clips, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("x")
    assert encode.main([*of_manifest(clips / "stories.jsonl", tmp_path), *PIXELS]) == 2
    assert "is not empty and no output of this command (precious.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_too_small_a_disk_is_found_first(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert encode.main([*of_manifest(clips / "stories.jsonl", tmp_path / "s"), *PIXELS]) == 2
    assert ", 1.00 kB are free" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


# --- hostile and broken videos


def _empty(path, good):
    path.touch()


def _text(path, good):
    path.write_text("I am no video.\n" * 100)


def _page(path, good):
    path.write_text("<html><body>404 Not Found</body></html>")


def _truncated(path, good):
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def _only_begin(path, good):
    path.write_bytes(good.read_bytes()[:40])


def _noise(path, good):
    path.write_bytes(np.random.default_rng(0).bytes(50_000))


def _zeros(path, good):
    with path.open("wb") as file:
        file.truncate(100_000_000)  # takes no space


def _noise_inside(path, good):
    content = bytearray(good.read_bytes())
    start = content.index(b"mdat") + 4
    size = content.index(b"moov") - start - 4
    content[start : start + size] = np.random.default_rng(1).bytes(size)
    path.write_bytes(content)


def _sound(path, good):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _short(path, good):
    write_video(path, frames=3)


def _no_frames(path, good):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 72, "yuv420p"
        container.start_encoding()


def _picture(path, good):
    Image.new("RGB", (72, 48)).save(path, "png")


def _huge_gif(path, good):
    path.write_bytes(
        b"GIF89a\xff\xff\xff\xff\x80\x00\x00"
        + bytes(6)
        + b","
        + bytes(4)
        + b"\xff\xff\xff\xff\x00\x08\x02\x4c\x01\x00;"
    )


def _pipe(path, good):
    os.mkfifo(path)


def _playlist(path, good):
    path.write_text(f"#EXTM3U\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n")


def _script(path, good):
    path.write_text(f"ffconcat version 1.0\nfile '{good}'\n")


def _archive(path, good):
    path.write_bytes(b"PK\x03\x04" + bytes(200))


# Each makes a file from the path of a good one.
BROKEN = [
    *(_empty, _text, _page, _truncated, _only_begin, _noise, _zeros, _noise_inside, _sound, _short),
    *(_no_frames, _picture, _huge_gif, _pipe, _playlist, _script, _archive),
]


def test_broken_videos_are_named_and_the_others_encoded(clips, tmp_path):
    good = clips / "red.mp4"
    stories = []
    for make in BROKEN:
        make(tmp_path / f"{make.__name__[1:]}.mp4", good)
        stories.append({"scenes": [{"video": f"{make.__name__[1:]}.mp4", "caption": "broken"}]})
    (tmp_path / "good.mp4").write_bytes(good.read_bytes())
    for times in ({}, {"start": 0.5, "end": 2.0}, {"start": 1.0, "end": 1.2}, {"start": 60.0}):
        stories.insert(
            len(stories) // 2, {"scenes": [{"video": "good.mp4", "caption": "good", **times}]}
        )
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(s) + "\n" for s in stories))

    done = run(*of_manifest(tmp_path / "all.jsonl", tmp_path / "set"), *PIXELS, "--time_limit=10")
    assert done.returncode == 0, done.stderr
    dataset = EncodedDataset(tmp_path / "set")
    assert len(dataset) == 2
    skipped = {item["video"]: item["reason"] for item in dataset.skipped()}
    assert set(skipped) == {"good.mp4", *(f"{make.__name__[1:]}.mp4" for make in BROKEN)}
    assert f"skipped {len(BROKEN) + 2} scenes" in done.stdout
    assert all(skipped.values())
    assert not any(str(tmp_path) in reason for reason in skipped.values()), skipped
    for item in dataset.skipped():
        assert item["kind"] in done.stdout
    assert (
        sum(json.loads((tmp_path / "set/skipped.json").read_text())["counts"].values())
        == len(BROKEN) + 2
    )


@pytest.mark.parametrize(("min_scenes", "wanted"), [(1, [3, 4, 5]), (4, None)])
def test_a_story_keeps_its_longest_run(clips, tmp_path, min_scenes, wanted):
    (clips / "bad.mp4").write_text("bad")
    videos = ["red.mp4", "bad.mp4", "green.mp4", "blue.mp4", "red.mp4"]
    manifest = clips / f"lost{min_scenes}.jsonl"
    write_manifest(manifest, {"lost": videos, "whole": ["red.mp4"] * 4})
    flags = of_manifest(manifest, tmp_path / "set")
    assert encode.main([*flags, *PIXELS, f"--min_scenes={min_scenes}"]) == 0
    dataset = EncodedDataset(tmp_path / "set")
    found = {story["name"]: [origin["scene"] for origin in story["origins"]] for story in dataset}
    assert found == {"whole": [1, 2, 3, 4]} | ({"lost": wanted} if wanted else {})
    assert len(dataset.skipped()) == (2 if wanted else 5)
    assert sum("its story" in item["reason"] for item in dataset.skipped()) == (1 if wanted else 4)


def test_nothing_to_encode_and_then_repaired(clips, tmp_path, capsys):
    (tmp_path / "later.mp4").write_text("not yet")
    write_manifest(tmp_path / "m.jsonl", {"one": ["later.mp4"]})
    flags = [*of_manifest(tmp_path / "m.jsonl", tmp_path / "set"), *PIXELS]
    assert encode.main(flags) == 1
    assert "nothing could be encoded" in capsys.readouterr().out
    assert "later.mp4" in (tmp_path / "set/skipped.json").read_text()
    (tmp_path / "later.mp4").write_bytes((clips / "red.mp4").read_bytes())
    assert encode.main(flags) == 0
    assert EncodedDataset(tmp_path / "set").skipped() == []


# --- the user's input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "encoding needs --codec, --manifest or --clips, --output"),
        (["--clips=x"], "--clips needs --codec, --output"),
        (["--clips=x", "--manifest=y", "--output=z", "--codec=pixels"], "--manifest cannot go wi"),
        (["--config.data.frames=3"], "--config.data.frames=3: needs --config=FILE_OR_NAME"),
        (["--config=base", "--config.data.framez=3"], "the nearest is --config.data.frames"),
        (["--preview=x", "--seed=1"], "--seed cannot go with --preview"),
        (["--scenes-from=x"], "--scenes-from needs --output"),
        (["--scenes-from=x", "--output=y", "--codec=pixels"], "--codec cannot go with"),
    ],
)
def test_flags_that_do_not_fit(capsys, arguments, message):
    assert encode.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec=pixels", "--frames=5"], "--codec=pixels needs --height, --width"),
        ([*PIXELS, "--dtype=float32"], "--dtype=float32: not with --codec=pixels"),
        ([*PIXELS, "--root=missing"], "--root=missing: no such folder"),
        ([*PIXELS, "--config=missing.py"], "missing.py: no such file"),
        ([*PIXELS, "--frames=10000", "--height=640", "--width=640"], "are the most at"),
        (["--codec=missing"], "missing: no such folder"),
    ],
)
def test_mistakes_are_found_before_any_work(clips, tmp_path, capsys, arguments, message):
    flags = of_manifest(clips / "stories.jsonl", tmp_path / "set")
    assert encode.main([*flags, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_sizes_that_the_model_cannot_make(golden, clips, tmp_path, capsys):
    flags = [*of_manifest(clips / "stories.jsonl", tmp_path / "set"), f"--codec={golden}/pipe_5b"]
    assert encode.main([*flags, "--width=40", "--height=20"]) == 2
    message = capsys.readouterr().err
    assert "height 20 is not a multiple of 16" in message and "width 40 is" in message


def test_shots_become_a_manifest(tmp_path, monkeypatch, capsys):
    def cut_into_shots(path, root):
        scenes = tuple(
            ClipScene(root / path.name, "", start, start + 2.0, {"shot": n}, f"shot {n}")
            for n, start in enumerate((0.0, 2.0))
        )
        return Manifest((ManifestStory("long", scenes),), path, "stories")

    fake = SimpleNamespace(cut_into_shots=cut_into_shots)
    monkeypatch.setitem(sys.modules, "m2dit_jax.data.shots", fake)
    flags = [f"--scenes-from={tmp_path / 'long.mp4'}", f"--output={tmp_path / 'shots.jsonl'}"]
    assert encode.main(flags) == 0
    assert "2 shots" in capsys.readouterr().out
    (line,) = (tmp_path / "shots.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "name": "long",
        "scenes": [
            {"video": "long.mp4", "caption": "", "start": 0.0, "end": 2.0, "shot": 0},
            {"video": "long.mp4", "caption": "", "start": 2.0, "end": 4.0, "shot": 1},
        ],
    }
    assert encode.main(flags) == 2
    assert "exists; needs a name that is free" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("good", "wanted"),
    [
        ([], []),
        ([False], []),
        ([True, True], [0, 1]),
        ([True, False, True, True], [2, 3]),
        ([True, True, False, True, True, False], [0, 1]),
    ],
)
def test_longest_run(good, wanted):
    assert list(stories.longest_run(good)) == wanted


@pytest.mark.slow
def test_float16_models_and_unknown_captions(golden, clips, tmp_path, capsys):
    model = shutil.copytree(golden / "pipe_5b", tmp_path / "model")
    for network in ("vae", "text_encoder"):
        (path,) = (model / network).glob("*.safetensors")
        halves = {name: x.astype(np.float16) for name, x in load_file(path).items()}
        save_file(halves, path, metadata={"format": "pt"})
    write_video(tmp_path / "0.mp4")
    lines = [
        json.dumps({"name": name, "scenes": [{"video": "0.mp4", "caption": caption}]})
        for name, caption in (("one", "a red 猫"), ("two", "你好"), ("three", "a red cat"))
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = [*of_manifest(tmp_path / "s.jsonl", tmp_path / "set"), f"--codec={model}", *SIZES]
    for _ in range(2):  # the second time it is finished
        assert encode.main(flags) == 0
        out = capsys.readouterr().out
        assert "2 captions have characters that the model does not know" in out
        assert "1 lose half of theirs or more" in out and "100% of it, 你好" in out
    dataset = EncodedDataset(tmp_path / "set")
    assert dataset.settings["dtype"] == "float32"
    skipped = json.loads((tmp_path / "set/skipped.json").read_text(encoding="utf-8"))
    assert [item["characters"] for item in skipped["unknown"]] == [["猫"], ["你好"]]
