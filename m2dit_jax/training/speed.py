"""How fast a run is, how full its devices are, and what restarts cost it."""

from typing import Any

import jax

from m2dit_jax.config.recipe import Recipe, make_transformer_config
from m2dit_jax.models.flops import training_flops
from m2dit_jax.training.record import CHECKPOINT, READY, SPEED, START
from m2dit_jax.utils.chips import find_chip
from m2dit_jax.utils.machine import process_bytes


def step_flops(recipe: Recipe) -> int:
    """Operations of a training step over all devices, in closed form (`models.flops`)."""
    config = recipe.config
    text_encoder = None if config.data.source == "latents" else config.text_encoder
    transformer = make_transformer_config(config)
    return config.train.batch_size * training_flops(
        transformer, recipe.story_layout(), text_encoder, config.distill.evaluations
    )


class SpeedMeter:
    """The speed of a run's steps in figures that compare with those of other machines."""

    def __init__(self, recipe: Recipe, devices: list[Any]):
        self._stories = recipe.config.train.batch_size
        self._flops = step_flops(recipe)
        chip = find_chip(devices[0].device_kind)
        self._peak = chip.flops * len(devices) if chip else None

    def figures(self, steps_per_second: float) -> dict[str, float]:
        """Stories and operations per second of all devices, share of their peak, memory in GiB.

        The peak is that of dense bfloat16 products, and left out for chips whose figures are not in
        `utils.chips`. Memory is the most that a device of this process had so far, or, on devices
        that do not count it, what the process has now.
        """
        flops_per_second = steps_per_second * self._flops
        figures = {
            "steps_per_second": steps_per_second,
            "stories_per_second": steps_per_second * self._stories,
            "teraflops_per_second": flops_per_second / 1e12,
        }
        if self._peak:
            figures["flop_utilisation"] = flops_per_second / self._peak
        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
        if peaks:
            figures["device_memory_gib"] = max(peaks) / 2**30
        else:
            figures["process_memory_gib"] = process_bytes() / 2**30
        return figures


def restart_costs(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds that restarts have cost a run so far, from the lines of its record.

    `lost` are those of steps that no checkpoint kept, `start` those from the start of a process to
    the end of its first step, `stopped` those in which no process ran. The first start of a run
    counts for nothing; a process that made no step counts as stopped.
    """
    costs = {"restarts": 0.0, "lost_seconds": 0.0, "start_seconds": 0.0, "stopped_seconds": 0.0}
    saved: dict[int, float] = {}
    alive: float | None = None  # when a process was last known to run
    start: dict[str, Any] | None = None
    for line in lines:
        if line["event"] == START:
            start = line
            continue
        if line["event"] == READY and start is not None:
            if alive is not None:
                kept = saved.get(start["step"], alive)
                costs["restarts"] += 1
                costs["lost_seconds"] += max(alive - kept, 0.0)
                costs["stopped_seconds"] += max(start["process_started"] - alive, 0.0)
                costs["start_seconds"] += line["time"] - start["process_started"]
            else:
                saved.setdefault(start["step"], line["time"])
            start = None
        if line["event"] == CHECKPOINT:
            saved[line["step"]] = line["time"]
        alive = line["time"]
    return costs


def goodput(lines: list[dict[str, Any]], now: float) -> float | None:
    """The share of a run's time so far that went into steps that count, from its record's lines.

    The time is from the start of the first process to `now`, in seconds since 1970; steps that no
    checkpoint kept, starts, evaluations and pauses do not count. None where the record says too
    little.
    """
    began: float | None = None
    last = 0
    counted: list[tuple[int, int, float]] = []  # first step, the one after the last, a second's
    for line in lines:
        if line["event"] == START:
            began = line.get("process_started") if began is None else began
            last = line["step"]
            counted = [(a, min(b, last), rate) for a, b, rate in counted if a < last]
        elif line["event"] == SPEED and line.get("steps_per_second") and line["step"] > last:
            counted.append((last, line["step"], line["steps_per_second"]))
            last = line["step"]
    if began is None or not counted or now <= began:
        return None
    return min(sum((b - a) / rate for a, b, rate in counted) / (now - began), 1.0)
