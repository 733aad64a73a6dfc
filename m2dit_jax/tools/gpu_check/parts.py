"""The parts of the GPU check, each a program of its own that writes rows of figures.

    python -m m2dit_jax.tools.gpu_check.parts attention --output=attention.json [--tiny]

A part imports only what it needs: on the machine that is checked little may be installed.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2dit_jax.tools.gpu_check.record import Row, write_rows
from m2dit_jax.tools.gpu_check.sizes import FULL, TINY, Sizes

ROOT = Path(__file__).parents[3]


def devices(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The devices that JAX finds, the versions, and the speed of a plain product."""
    import jax

    from m2dit_jax.tools.benchmarking.timing import matmul_flops_per_second

    versions = {"python": sys.version.split()[0], "jax": jax.__version__}
    versions["jaxlib"] = version("jaxlib")
    for device in jax.devices():
        yield {
            "what": f"device {device.id}: {device.device_kind}",
            "platform": device.platform,
            "compute_capability": str(getattr(device, "compute_capability", "-")),
            "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
            **versions,
        }
    for dtype in ("bfloat16", "float32"):
        rate = matmul_flops_per_second(dtype)
        yield {"what": f"product of matrices, {dtype}", "flops_per_second": rate, **_share(rate)}


def attention(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Each implementation at full length, forward and gradient, against float32."""
    import jax
    import jax.numpy as jnp

    from m2dit_jax.models.attention.dispatch import attention as attend
    from m2dit_jax.models.flops import attention_pairs
    from m2dit_jax.tools.planning.memory import program_bytes

    layout = _recipe("pretrain_5b", sizes).story_layout()
    shape = (1, layout.tokens, sizes.heads, sizes.head_dim)
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, weights = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    flops = 4 * attention_pairs(layout, "symmetric") * sizes.heads * sizes.head_dim

    def functions(name: str) -> dict[str, Callable[..., Any]]:
        def forward(query, key, value):
            return attend(query, key, value, layout, "symmetric", name)

        def loss(query, key, value):
            return jnp.sum(forward(query, key, value) * weights.astype(query.dtype))

        return {"forward": forward, "forward and gradient": jax.grad(loss, (0, 1, 2))}

    on_gpu = jax.default_backend() == "gpu"
    names = ("cudnn", "chunked") if on_gpu else ("grouped", "chunked")
    results = {}
    for name in names:
        for (phase, function), times in zip(functions(name).items(), (1, 3), strict=True):
            compiled = jax.jit(function).lower(*inputs).compile()
            seconds = _fastest(partial(compiled, *inputs), sizes)
            rate = times * flops / seconds
            results[name, phase] = compiled(*inputs)
            yield {
                "what": f"{name}, bfloat16, {layout.tokens} tokens, {phase}",
                "seconds": seconds,
                "flops_per_second": rate,
                **_share(rate),
                "program_bytes": program_bytes(compiled),
            }
    wide = [x.astype(jnp.float32) for x in inputs]
    with jax.default_matmul_precision("highest"):
        for phase, function in functions("chunked").items():
            right = jax.jit(function)(*wide)
            for name in names:
                errors = _errors(results[name, phase], right)
                yield {"what": f"{name}, {phase}: error against float32", "largest_error": errors}


def torch_attention(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """PyTorch's attention at the same length, if PyTorch is there."""
    if importlib.util.find_spec("torch") is None:
        yield {"what": "PyTorch is not installed: nothing to compare with"}
        return
    from m2dit_jax.tools.gpu_check.torch_attention import torch_attention as compare

    # The GPU's memory is PyTorch's: JAX, which only counts the tokens here, would take most of it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    layout = _recipe("pretrain_5b", sizes).story_layout()
    video = layout.video_counts[0]
    yield from compare(
        layout.scenes, layout.text, video, sizes.heads, sizes.head_dim, sizes.repeats
    )


def parity(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The golden files of the tests, in float32 with the highest precision."""
    cases = folder / "parity_cases.json"
    reference = ROOT / "tests" / "golden"
    command = [sys.executable, "-m", "m2dit_jax.parity", f"--reference={reference}"]
    only = [] if sizes.only_files is None else [f"--only={sizes.only_files}"]
    begun = time.perf_counter()
    status = subprocess.run([*command, *only, f"--json={cases}"]).returncode
    found = json.loads(cases.read_text(encoding="utf-8")) if cases.exists() else []
    failed = [case for case in found if not case["passed"]]
    yield {
        "what": "cases of the PyTorch reference",
        "seconds": time.perf_counter() - begun,
        "passed": len(found) - len(failed),
        "failed": len(failed),
        "status": status,
    }
    for case in failed:
        yield {"what": f"FAILED: {case['case']}", **{k: case[k] for k in ("error", "limit")}}
    if status:
        raise RuntimeError(f"parity ended with status {status}")


def step_5b(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A denoising step of 5B with guidance on random weights, a story of three scenes."""
    from m2dit_jax.tools.benchmarking.phases import sample_step

    recipe = _recipe("pretrain_5b", sizes, **{"train.batch_size": 1})
    yield from _timed("denoising step of 5B with guidance", recipe, sample_step, sizes)
    yield _planned(recipe, "sample")


def decode(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A scene through the VAE's decoder, in one piece."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from m2dit_jax.models.families import DEFAULT
    from m2dit_jax.tools.planning.memory import program_bytes

    config = DEFAULT.vae.config(sizes.vae)
    graphdef, params = _random_network(DEFAULT.vae.make, config)
    latents = jnp.zeros((1, *_recipe("pretrain_5b", sizes).latent_shape()), jnp.bfloat16)

    @jax.jit
    def compute(params: Any, latents: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params).decode(latents)

    compiled = compute.lower(params, latents).compile()
    shape = jax.eval_shape(compute, params, latents).shape
    yield {
        "what": f"VAE decode of {shape[1]} frames of {shape[2]}x{shape[3]}",
        "seconds": _fastest(lambda: compiled(params, latents), sizes),
        "program_bytes": program_bytes(compiled),
        **_device_peak(),
    }


def text(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A prompt through T5-XXL on random weights."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from m2dit_jax.models.families import DEFAULT

    config = DEFAULT.text_encoder_config(**sizes.text_encoder)
    graphdef, params = _random_network(DEFAULT.text_encoder.make, config)
    ids = jnp.zeros((1, _recipe("pretrain_5b", sizes).config.data.text_length), jnp.int32)

    @jax.jit
    def compute(params: Any, ids: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(ids)

    yield {
        "what": f"T5 of {config.num_layers} layers, a prompt of {ids.shape[1]} tokens",
        "seconds": _fastest(lambda: compute(params, ids), sizes),
        **_device_peak(),
    }


def train_2b(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A training step of 2B on one story, with full remat."""
    from m2dit_jax.tools.benchmarking.phases import train_step

    recipe = _recipe("finetune_2b", sizes, **{"train.batch_size": 1, "model.remat": "full"})
    yield from _timed("training step of 2B, full remat", recipe, train_step, sizes)
    yield _planned(recipe, "train")


def train_5b(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Training steps of 5B with a few of its layers, and the line through them to all."""
    from m2dit_jax.tools.benchmarking.phases import train_step

    layers = _recipe("finetune_5b", sizes).config.model.layers
    seconds = []
    for depth in sizes.depths:
        fields = {"train.batch_size": 1, "model.remat": "full", "model.layers": depth}
        recipe = _recipe("finetune_5b", sizes, **fields)
        for row in _timed(f"training step of 5B with {depth} layers", recipe, train_step, sizes):
            seconds.append(row["seconds"])
            yield row
    few, more = sizes.depths
    slope = (seconds[1] - seconds[0]) / (more - few)
    yield {
        "what": f"training step of 5B with all {layers} layers, EXTRAPOLATED from {few} and {more}",
        "seconds": seconds[0] + slope * (layers - few),
    }


def start(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """First and second start of a training: from the command to the end of its first step."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compile_cache")}
    for number in ("first", "second"):
        short = {"train.steps": 1, "train.warmup_steps": 0, "train.eval_every": 0}
        fields = {**sizes.base_fields, **short}
        seconds = _train(folder / f"run_{number}_start", fields, cache)
        yield {"what": f"{number} start of base.py, one step", "seconds": seconds}


def base(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The training of configs/base.py to its end."""
    workdir = folder / "run_base"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compile_cache")}
    fields, how = dict(sizes.base_fields), "with compiling and evaluation"
    if importlib.util.find_spec("av") is None:  # evaluations write videos
        fields["train.eval_every"] = 0
        how = "with compiling, without evaluation (no PyAV)"
    seconds = _train(workdir, fields, cache)
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    rates = [entry["steps_per_second"] for entry in entries if "steps_per_second" in entry]
    yield {
        "what": f"base.py, {entries[-1]['step']} steps, {how}",
        "seconds": seconds,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps_per_second": max(rates, default=None),
    }


# The most important first. A part may take so many seconds of the nine minutes at most.
PARTS: dict[str, tuple[Callable[[Sizes, Path], Iterator[Row]], int]] = {
    "devices": (devices, 40),
    "attention": (attention, 110),
    "torch_attention": (torch_attention, 45),
    "parity": (parity, 120),
    "step_5b": (step_5b, 120),
    "decode": (decode, 75),
    "text": (text, 60),
    "train_2b": (train_2b, 100),
    "train_5b": (train_5b, 100),
    "start": (start, 80),
    "base": (base, 150),
}


def _recipe(name: str, sizes: Sizes, **fields: Any) -> Any:
    """The recipe of a shipped config, for one device, with some of its fields changed."""
    from m2dit_jax.config.files import named_config
    from m2dit_jax.config.recipe import build_recipe

    named_config(name)  # makes `configs` importable
    config = importlib.import_module(f"configs.{name}").get_config()
    config.train.init_from = ""
    config.mesh.fsdp = 1
    for field, value in {**sizes.fields, **fields}.items():
        config.update_from_flattened_dict({field: value})
    return build_recipe(config)


def _timed(what: str, recipe: Any, phase: Callable[[Any], Any], sizes: Sizes) -> Iterator[Row]:
    begun = time.perf_counter()
    timed = phase(recipe)
    prepared = time.perf_counter() - begun
    seconds = _fastest(timed.run, sizes)
    rate = timed.flops / seconds
    yield {
        "what": what,
        "seconds": seconds,
        "tokens_per_second": timed.tokens / seconds,
        "flops_per_second": rate,
        **_share(rate),
        "program_bytes": timed.program_bytes,
        **_device_peak(),
        "prepare_seconds": prepared,
    }


def _planned(recipe: Any, mode: str) -> Row:
    """The bound and the memory that `plan` gives for the same program on this device."""
    import jax

    from m2dit_jax.tools.planning.planner import make_plan
    from m2dit_jax.tools.planning.topologies import Machine
    from m2dit_jax.utils.chips import CHIPS, find_chip

    device = jax.devices()[0]
    chip = find_chip(device.device_kind) or CHIPS["cpu"]
    platform = "cuda" if device.platform == "gpu" else device.platform
    plan = make_plan(recipe, Machine("this device", chip, platform, (device,), 1), mode)
    row = {"what": f"plan --mode={mode} for {chip.name}", "peak_bytes": plan.peak_bytes}
    if plan.figures is not None:
        row["least_seconds"] = plan.figures.roofline.bound
    return row


def _random_network(make: Callable[..., Any], config: Any) -> tuple[Any, Any]:
    """Graph and random bfloat16 parameters of a network; no float32 ones are ever whole."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0))))
    leaves, structure = jax.tree.flatten(nnx.to_pure_dict(abstract))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    draw = jax.jit(
        lambda key, shape: 0.02 * jax.random.normal(key, shape, jnp.bfloat16), static_argnums=1
    )
    drawn = [draw(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return graphdef, jax.tree.unflatten(structure, drawn)


def _train(workdir: Path, fields: Any, environment: dict[str, str]) -> float:
    """Seconds of a training of configs/base.py, from command to end."""
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "m2dit_jax.train", "--config=base", f"--workdir={workdir}"]
    begun = time.perf_counter()
    subprocess.run([*command, *flags], check=True, env=os.environ | environment)
    return time.perf_counter() - begun


def _fastest(run: Callable[[], Any], sizes: Sizes) -> float:
    import jax

    from m2dit_jax.tools.benchmarking.timing import measure

    return min(measure(lambda: jax.block_until_ready(run()), sizes.warmup, sizes.repeats))


def _share(rate: float) -> Row:
    """The rate as a share of the chip's peak in bfloat16, if the chip is known."""
    import jax

    from m2dit_jax.utils.chips import find_chip

    chip = find_chip(jax.devices()[0].device_kind)
    return {} if chip is None else {"share_of_peak": rate / chip.flops}


def _device_peak() -> Row:
    import jax

    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {} if peak is None else {"peak_device_bytes": peak}


def _errors(found: Any, right: Any) -> float:
    """The largest error of any array, relative to the largest value of it."""
    import jax
    import jax.numpy as jnp

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
    return max(
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b))) for a, b in pairs
    )


def main() -> int:
    """Runs one part and returns 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the rows")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try it on a CPU")
    flags = parser.parse_args()
    sizes = TINY if flags.tiny else FULL
    rows = PARTS[flags.part][0](sizes, flags.output.parent)
    write_rows(rows, flags.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
