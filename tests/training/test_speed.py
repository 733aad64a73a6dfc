import jax
import pytest

from m2dit_jax.config.recipe import build_recipe, make_transformer_config
from m2dit_jax.models.flops import forward_flops, text_encoder_flops
from m2dit_jax.training.record import RunRecord, read_record
from m2dit_jax.training.speed import SpeedMeter, goodput, restart_costs, step_flops
from m2dit_jax.utils.chips import CHIPS, find_chip


def test_a_step_is_three_forward_passes_of_each_story(tiny_config):
    recipe = build_recipe(tiny_config)
    story = forward_flops(make_transformer_config(recipe.config), recipe.story_layout()).total
    prompts = text_encoder_flops(recipe.config.text_encoder, 2, recipe.config.data.text_length)
    assert step_flops(recipe) == 3 * 4 * (story + prompts)


def test_a_step_that_distils_has_three_forward_passes_more(tiny_config):
    alone = step_flops(build_recipe(tiny_config))
    tiny_config.distill.update(teacher="runs/a", steps=2, guidance_scale=2.0)
    tiny_config.sample.guidance_scale = 1.0
    assert step_flops(build_recipe(tiny_config)) == 2 * alone


class _Device:
    device_kind = "NVIDIA H100 80GB HBM3"

    def memory_stats(self):
        return {"peak_bytes_in_use": 3 * 2**30, "bytes_in_use": 2**30}


def test_the_figures_of_a_chip_that_is_known(tiny_config, monkeypatch):
    recipe = build_recipe(tiny_config)
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(), _Device()])
    figures = SpeedMeter(recipe, [_Device()] * 4).figures(2.0)
    assert figures["stories_per_second"] == 8.0
    assert figures["flop_utilisation"] == pytest.approx(2 * step_flops(recipe) / (4 * 989e12))
    assert figures["device_memory_gib"] == 3.0


def test_a_cpu_has_no_peak_and_counts_the_memory_of_the_process(tiny_config):
    figures = SpeedMeter(build_recipe(tiny_config), jax.devices()).figures(2.0)
    assert "flop_utilisation" not in figures
    assert 0.01 < figures["process_memory_gib"] < 100


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_chips_are_known_by_the_name_that_jax_gives_them(kind, name):
    assert find_chip(kind) is CHIPS[name]
    assert find_chip("NVIDIA GeForce GTX 970") is None


def test_what_restarts_cost():
    def start(step, process_started):
        return {
            "event": "start",
            "step": step,
            "time": process_started + 30,
            "process_started": process_started,
        }

    def line(event, step, time):
        return {"event": event, "step": step, "time": time}

    lines = [start(0, 1000.0), line("ready", 1, 1040.0)]
    assert restart_costs(lines)["restarts"] == 0
    lines += [line("checkpoint", 10, 1100.0), line("speed", 15, 1150.0)]
    # Killed after step 15, started twice, once without coming to a step.
    lines += [start(10, 1200.0), start(10, 1300.0), line("ready", 11, 1345.0)]
    assert restart_costs(lines) == {
        "restarts": 1,
        "lost_seconds": 50.0,
        "stopped_seconds": 150.0,
        "start_seconds": 45.0,
    }
    # Killed before the next checkpoint: all that was done since the first is done again.
    lines += [line("speed", 15, 1395.0), start(10, 1400.0), line("ready", 11, 1440.0)]
    costs = restart_costs(lines)
    assert (costs["restarts"], costs["lost_seconds"]) == (2, 50.0 + 295.0)


def test_a_record_survives_a_line_that_is_cut_off(tmp_path):
    RunRecord(tmp_path).add("start", 0, changed={})
    with (tmp_path / "run.jsonl").open("a") as lines:
        lines.write('{"event": "spee\n')
    record = RunRecord(tmp_path)
    record.add("ready", 1)
    assert [line["event"] for line in record.lines] == ["start", "ready"]
    assert read_record(tmp_path) == record.lines


def test_goodput_is_the_share_of_time_in_steps_that_count():
    def start(step, process_started):
        return {"event": "start", "step": step, "time": 0.0, "process_started": process_started}

    def speed(step, rate):
        return {"event": "speed", "step": step, "time": 0.0, "steps_per_second": rate}

    assert goodput([], 10.0) is None
    assert goodput([start(0, 1000.0)], 1100.0) is None
    lines = [start(0, 1000.0), speed(10, 1.0), speed(20, 0.5)]
    assert goodput(lines, 1100.0) == pytest.approx(0.3)
    # Killed after step 20; step 15 was saved, half of the last line.
    lines += [start(15, 1100.0), speed(20, 1.0)]
    assert goodput(lines, 1200.0) == pytest.approx((10 + 10 + 5) / 200)
    # A record of an older version.
    assert goodput([{"event": "start", "step": 0, "time": 0.0}, speed(5, 1.0)], 10.0) is None
