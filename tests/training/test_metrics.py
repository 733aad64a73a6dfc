import json

import pytest

from m2dit_jax.training.metrics import MetricsWriter, ProgressMeter, duration


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
