import io
import json
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from m2dit_jax.config.schema import Config
from m2dit_jax.training.metrics import (
    JsonLinesWriter,
    MetricsWriter,
    MetricWriter,
    ProgressMeter,
    duration,
)
from m2dit_jax.training.run import prepare


def _write(workdir, after, steps):
    workdir.mkdir(exist_ok=True)
    metrics = MetricsWriter(workdir, after)
    for step in steps:
        metrics.write(step, {"loss": 1 / step, "task/it": None}, {"steps_per_second": 5.0})
    metrics.close()
    return (workdir / "metrics.jsonl").read_text()


def test_lines_hold_no_timings(tmp_path):
    assert _write(tmp_path, 0, [3]) == '{"step": 3, "loss": 0.3333333, "task/it": null}\n'


@pytest.mark.parametrize("left_over", ["", '{"step": 4, "lo', '{"step": 2', "\0\0\0\0\n"])
def test_going_on_cuts_off_what_lies_beyond_the_checkpoint(left_over, tmp_path):
    whole = _write(tmp_path / "whole", 0, [1, 2, 3, 4])
    interrupted = tmp_path / "interrupted"
    _write(interrupted, 0, [1, 2, 3])
    with (interrupted / "metrics.jsonl").open("a") as lines:
        lines.write(left_over)
    assert _write(interrupted, 2, [3, 4]) == whole


def test_a_damaged_line_is_named_and_those_after_it_stay(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\x00\n{"step": 3}\n{"step": "4"}\n{"step": 5}\n{"st')
    JsonLinesWriter(tmp_path, step=4).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: left out what is damaged: line 2 (JSONDecodeError(")
    assert "line 4 (ValueError(\"its step is '4'\"))" in message and "line 6" not in message


def test_a_whole_line_without_its_end_is_written_again(tmp_path):
    whole = _write(tmp_path, 0, [1, 2])
    (tmp_path / "metrics.jsonl").write_text(whole[:-1])
    assert _write(tmp_path, 1, [2]) == whole


def test_lines_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    metrics = MetricsWriter(tmp_path, 0)
    metrics.write(1, {"loss": 0.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}
    metrics.close()


def test_tensorboard_gets_values_and_timings(tmp_path):
    _write(tmp_path, 0, [1, 2])
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"train/loss") == content.count(b"train/steps_per_second") == 2
    assert b"task/it" not in content


def test_a_picture_comes_with_its_caption(tmp_path):
    metrics = MetricsWriter(tmp_path, 0)
    metrics.write_image(3, "preview", np.zeros((4, 6, 3), np.uint8), "1. a *red* cross")
    metrics.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"preview/captions" in content and b"1. a *red* cross" in content
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_tensorboard_gets_texts_and_videos_that_play(tmp_path):
    metrics = MetricsWriter(tmp_path, 0)
    metrics.write_text(0, "config", "    seed: 1")
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    metrics.write_video(3, "preview/video", frames, 4.0)
    metrics.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = {value.tag: value for value in events_of(path)}
    assert b"seed: 1" in found["config/text_summary"].tensor.string_val[0]
    with Image.open(io.BytesIO(found["preview/video"].image.encoded_image_string)) as gif:
        assert gif.format == "GIF" and gif.n_frames == 3
        assert (gif.width, gif.height) == (found["preview/video"].image.width, 256)


def events_of(path):
    """Values of an event file: each record has its length, two checksums and an Event."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        event = Event.FromString(content[place + 12 : place + 12 + length])
        yield from event.summary.value
        place += length + 16


def test_another_writer_gets_the_same(tmp_path):
    class Kept:
        def __init__(self):
            self.calls = []

        def write(self, step, values, timings):
            self.calls.append((step, values, timings))

        def write_image(self, step, name, image, caption):
            self.calls.append((step, name, image.shape, caption))

        def write_video(self, step, name, frames, fps):
            self.calls.append((step, name, frames.shape, fps))

        def write_text(self, step, name, text):
            self.calls.append((step, name, text))

        def flush(self):
            self.calls.append("flush")

        def close(self):
            self.calls.append("close")

    kept = Kept()
    assert isinstance(kept, MetricWriter)
    metrics = MetricsWriter(tmp_path, 0, [kept])
    metrics.write(1, {"loss": 1 / 3}, {"steps_per_second": 5.0})
    metrics.write_timings(1, {"restarts/restarts": 1.0})
    metrics.write_image(2, "preview", np.zeros((4, 6, 3), np.uint8))
    metrics.write_video(2, "video", np.zeros((2, 4, 6, 3), np.uint8), 4.0)
    metrics.write_text(2, "config", "    seed: 1")
    metrics.close()
    assert kept.calls == [
        (1, {"loss": 0.3333333}, {"steps_per_second": 5.0}),
        (1, {}, {"restarts/restarts": 1.0}),
        (2, "preview", (4, 6, 3), ""),
        (2, "video", (2, 4, 6, 3), 4.0),
        (2, "config", "    seed: 1"),
        "flush",
        "close",
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_weights_and_biases_is_written_offline_and_goes_on(tmp_path):
    pytest.importorskip("wandb", reason="optional extra: wandb")
    from m2dit_jax.training.wandb_writer import WandbWriter

    for step in (1, 2):
        metrics = MetricsWriter(tmp_path, step - 1, [WandbWriter(tmp_path, "offline")])
        metrics.write(step, {"loss": 0.5, "validation/loss": 0.25}, {"steps_per_second": 5.0})
        metrics.write_image(step, "preview", np.zeros((4, 6, 3), np.uint8), "a red cross")
        metrics.write_video(step, "story", np.zeros((3, 8, 8, 3), np.uint8), 4.0)
        metrics.write_text(step, "config", "seed: 0")
        metrics.close()
    first, second = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert first.name[-16:] == second.name[-16:], "the same run"
    (stored,) = first.glob("run-*.wandb")
    content = stored.read_bytes()
    for name in (b"train/loss", b"validation/loss", b"train/steps_per_second", b"a red cross"):
        assert name in content
    assert b"seed: 0" in content
    assert list(first.glob("files/media/images/*.png"))
    assert list(first.glob("files/media/videos/*.gif"))


def test_a_missing_wandb_is_told_of_before_anything_is_done(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tiny_config.train.wandb = "offline"
    with pytest.raises(ValueError, match="config.train.wandb needs the package wandb: pip inst"):
        prepare(Config.from_dict(tiny_config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_progress_counts_evaluations_into_the_time_left_but_not_into_the_rate(monkeypatch):
    clock = iter([0.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    progress = ProgressMeter(step=100, total=400)
    progress.skip(10.0)
    line, rate = progress.line(200, 0.25)
    assert rate == 10.0
    assert line == "step 200/400  loss 0.2500  10.00 steps/s  40s left"


def test_durations():
    assert [duration(s) for s in (0.4, 59.6, 125.0, 3599.7, 11220.0)] == [
        "0s",
        "1m00s",
        "2m05s",
        "1h00m",
        "3h07m",
    ]
