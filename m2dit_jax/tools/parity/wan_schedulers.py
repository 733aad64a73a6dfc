"""Golden file of Wan's samplers: timesteps, sigmas and trajectories of a made-up model."""

import re

import numpy as np

from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.samplers import SamplingSteps, sampling_steps
from m2dit_jax.tools.parity.golden import EXACT, GoldenFile

SCHEDULER_LIMIT = 1e-5
_SPACING_OF = {"unipc": "trailing", "euler": "linspace"}


def check_schedulers(file: GoldenFile, models: object) -> None:
    """Every sampler, shift and number of steps whose start is in the file."""
    for array in file.arrays:
        if found := re.fullmatch(r"(unipc|euler)_shift([\d.]+)_(\d+)_x", array):
            sampler, shift, steps = found[1], float(found[2]), int(found[3])
            run = array.removesuffix("_x")
            schedule = FlowSchedule(1000, shift, _SPACING_OF[sampler])
            table = sampling_steps(schedule, sampler, steps, 1.0)
            file.expect(f"{run}_timesteps", table.timesteps, EXACT)
            sigmas = np.append(schedule.points(steps).noise, 0)
            file.expect(f"{run}_sigmas", sigmas, SCHEDULER_LIMIT)
            file.expect(array, _trajectory(file.input(array)[0], table), SCHEDULER_LIMIT)


def _trajectory(sample: np.ndarray, table: SamplingSteps) -> np.ndarray:
    """The start and the sample after each step, float32."""
    trajectory, x0s = [sample], [np.zeros_like(sample)] * 2
    for number, timestep in enumerate(table.timesteps):
        output = np.tanh(np.float32(0.5) * sample + np.float32(timestep) / np.float32(1000))
        x0_weights, weights = table.x0_weights[number], table.weights[number]
        x0 = x0_weights[0] * sample + x0_weights[1] * output
        known = [sample, output, x0s[0], np.zeros_like(sample), x0s[1]]
        pairs = zip(weights, known[: len(weights)], strict=True)
        sample = sum((weight * each for weight, each in pairs), np.zeros_like(sample))
        trajectory.append(sample)
        x0s = [x0, x0s[0]]
    return np.stack(trajectory)
