"""Golden files that need no network: position tables, schedules and samplers, tokens, shapes."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.diffusion.noising import SPACINGS
from m2dit_jax.diffusion.samplers import SamplingSteps, sampling_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.cogvideox.grid import fit_into
from m2dit_jax.models.cogvideox.json_configs import noise_schedule
from m2dit_jax.models.cogvideox.rope import rope_table
from m2dit_jax.tools.parity.golden import EXACT, Case, GoldenFile, compare, failure
from m2dit_jax.tools.parity.models import ReferenceModels
from m2dit_jax.tools.parity.networks import rope_limit

ALPHAS_LIMIT = 1e-12
NOISING_LIMIT = 2e-6
TRAJECTORY_LIMIT = 5e-6


def check_rope(file: GoldenFile, models: ReferenceModels) -> None:
    """Fitting of grids, and rows of rotary tables with and without a base."""
    table = file.input("crop_table")
    ours = [[*grid, *np.ravel(fit_into(*grid))] for grid in table[:, :4].tolist()]
    file.expect("crop_table", ours, EXACT)
    for array in file.arrays:
        if found := re.fullmatch(r"((linspace|slice)\d+)_args", array):
            name, kind = found.groups()
            head_dim, height, width, base_height, base_width, frames = map(int, file.input(array))
            base = (base_height, base_width) if kind == "linspace" else None
            grid = (frames, height, width)
            rows = file.input(f"{name}_rows")
            limit = rope_limit(grid, base)
            for part, values in zip(("cos", "sin"), rope_table(grid, head_dim, base), strict=True):
                file.expect(f"{name}_{part}", np.asarray(values)[rows], limit)


def check_schedulers(file: GoldenFile, models: ReferenceModels) -> None:
    """Noise tables, noising, and trajectories of a made-up model, per pipeline's schedule."""
    for name in models.pipeline_names():
        if f"{name}_alphas_cumprod" in file:
            schedule = models.pipeline(name).folder.schedule
            assert isinstance(schedule, NoiseSchedule)
            _check_schedule(file, name, schedule)
    for array in file.arrays:
        # These are of diffusers' default schedule, but for the setting in their name.
        if found := re.fullmatch(rf"({'|'.join(SPACINGS)})(\d+)_timesteps", array):
            schedule = noise_schedule({"timestep_spacing": found[1]})
            file.expect(array, schedule.sampling_timesteps(int(found[2]), as_reference=True), EXACT)
    if "nozerosnr_alphas_cumprod" in file:
        schedule = noise_schedule({"rescale_betas_zero_snr": False})
        file.expect("nozerosnr_alphas_cumprod", schedule.alphas_cumprod(), ALPHAS_LIMIT)
    if "oddcount_timesteps" in file:
        steps = file.number("oddcount_num_inference_steps")
        timesteps = noise_schedule({}).sampling_timesteps(steps, as_reference=True)
        file.expect("oddcount_timesteps", timesteps, EXACT)


def _check_schedule(file: GoldenFile, name: str, schedule: NoiseSchedule) -> None:
    file.expect(f"{name}_alphas_cumprod", schedule.alphas_cumprod(), ALPHAS_LIMIT)
    # Samples stand in the place of our [batch, scene].
    x0, noise = (jnp.asarray(file.input(f"{name}_{array}"))[None] for array in ("x0", "noise"))
    timesteps = file.timesteps(f"{name}_timesteps", schedule)[None]
    noisy, velocity = (f(x0, noise, timesteps)[0] for f in (schedule.add_noise, schedule.v_target))
    file.expect(f"{name}_add_noise", noisy, NOISING_LIMIT)
    file.expect(f"{name}_velocity", velocity, NOISING_LIMIT)
    for array in file.arrays:
        if found := re.fullmatch(rf"{name}_(ddim|dpm)(\d+)_trajectory", array):
            sampler, steps = found[1], int(found[2])
            table = sampling_steps(schedule, sampler, steps, 1.0, as_reference=True)
            full_name = f"{name}_{sampler}{steps}"
            if f"{full_name}_timesteps" in file:
                file.expect(f"{full_name}_timesteps", table.timesteps, EXACT)
            draws = np.zeros((len(table.timesteps), 1), np.float32)
            if sampler == "dpm":
                draws = _noise_used(file, full_name, reference_draws(schedule, steps))
            _check_trajectory(file, full_name, table, draws)


def reference_draws(schedule: NoiseSchedule, steps: int) -> Int[np.ndarray, " rows"]:
    """Number of noise draws of the reference's DPM-Solver at each step: two if of second order."""
    timesteps = schedule.sampling_timesteps(steps, as_reference=True)
    is_last = timesteps - schedule.timesteps // steps < 0
    return 1 + ((np.arange(len(timesteps)) > 0) & ~is_last)


def _noise_used(file: GoldenFile, name: str, draws: np.ndarray) -> np.ndarray:
    """The noise of each step: the second draw of those steps that draw twice."""
    file.expect(f"{name}_num_draws", draws, EXACT)
    used, first = file.input(f"{name}_noise_used"), file.input(f"{name}_noise_first_draw")
    once = draws == 1
    file.add(f"{file.name}:{name}_noise_first_draw", used[once], first[once], EXACT)
    return used


def _check_trajectory(file: GoldenFile, name: str, table: SamplingSteps, draws: np.ndarray) -> None:
    sample = file.input(f"{name}_trajectory")[0]
    trajectory, predictions, x0 = [sample], [], np.zeros_like(sample)
    for number, timestep in enumerate(table.timesteps):
        output = np.tanh(np.float32(0.5) * sample + np.float32(timestep) / np.float32(1000))
        weights, x0_weights = table.weights[number], table.x0_weights[number]
        last_x0, x0 = x0, x0_weights[0] * sample + x0_weights[1] * output
        sample = (
            weights[0] * sample
            + weights[1] * output
            + weights[2] * last_x0
            + weights[3] * draws[number]
        )
        trajectory.append(sample)
        predictions.append(x0)
    file.expect(f"{name}_trajectory", np.stack(trajectory), TRAJECTORY_LIMIT)
    file.expect(f"{name}_pred_x0", np.stack(predictions), TRAJECTORY_LIMIT)


def check_tokenizer(root: Path, name: str, models: ReferenceModels) -> list[Case]:
    """Token ids of many texts, as they are and at several lengths."""
    golden = json.loads((root / name).read_text(encoding="utf-8"))
    pipeline = models.main_pipeline()
    tokenizer = pipeline.tokenizer
    extra = sum(token.startswith("<extra_id_") for token in tokenizer.get_vocab())
    values = {
        "sp_vocab": len(tokenizer) - extra,
        "pad_id": tokenizer.pad_token_id,
        "eos_id": tokenizer.eos_token_id,
        "unk_id": tokenizer.unk_token_id,
        "len": len(tokenizer),
        "max_text_seq_length": pipeline.transformer.text_length,
    }
    cases = [compare(f"{name}:{key}", ours, golden[key], EXACT) for key, ours in values.items()]
    cases += [
        failure(f"{name}:{key}", "not exercised") for key in golden.keys() - values - {"records"}
    ]
    for number, record in enumerate(golden["records"]):
        for key in record.keys() - {"text", "exotic"}:
            ids = tokenizer(record["text"])["input_ids"]
            if found := re.fullmatch(r"ids_max(\d+)", key):
                ids = pad_or_truncate(tokenizer, ids, int(found[1]))
            cases.append(compare(f"{name}:records[{number}].{key}", ids, record[key], EXACT))
    return cases


def check_manifest(root: Path, name: str) -> list[Case]:
    """Checks that every listed array is there, of the listed shape and dtype."""
    cases = []
    content = json.loads((root / name).read_text(encoding="utf-8"))
    for file, arrays in content.get("arrays", content).items():
        try:
            with (root / file).open("rb") as raw, np.load(raw, allow_pickle=False) as npz:
                found = {key: [list(npz[key].shape), str(npz[key].dtype)] for key in npz.files}
        except Exception as error:
            cases.append(failure(f"{name}:{file}", str(error)))
            continue
        wrong = [key for key in arrays if found.get(key) != arrays[key]]
        note = f"not as listed: {', '.join(wrong)}" if wrong else ""
        cases.append(Case(f"{name}:{file}", float(len(wrong)), EXACT, passed=not wrong, note=note))
    return cases
