import gzip
import json
import os
from pathlib import Path

import jax
import pytest

from configs import bench_medium
from m2dit_jax.benchmark import main
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.tools.benchmarking.phases import random_batch
from m2dit_jax.tools.benchmarking.timing import TimingOptions, time_phase
from m2dit_jax.training.data import open_training_data

OPTIONS = TimingOptions(
    threads=None, warmup=1, repeats=2, profile_steps=0, profile_folder=Path("unused")
)


@pytest.mark.slow
def test_the_command_prints_json_and_writes_a_trace(tiny_flags, tmp_path, capfd):
    flags = ["--phases=train_step", "--threads=1", "--repeats=3", "--profile=2"]
    assert main([*tiny_flags, *flags, f"--workdir={tmp_path}"]) == 0
    printed = json.loads(capfd.readouterr().out)
    figures = printed["phases"]["train_step"]
    seconds = figures["seconds"]
    assert seconds["fastest"] <= printed["train_step_seconds"] <= seconds["slowest"]
    tokens = 4 * 2 * (8 + 4)  # stories, scenes, text and video tokens
    assert figures["tokens_per_second"] * seconds["median"] == pytest.approx(tokens)
    assert figures["cpus"] == 1
    assert figures["peak_process_bytes"] > 2**26

    (folder,) = (tmp_path / "profile" / "train_step" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))
    trace = json.loads(gzip.decompress((folder / "perfetto_trace.json.gz").read_bytes()))
    steps = [event for event in trace["traceEvents"] if event.get("name") == "train_step"]
    assert {event["args"]["step_num"] for event in steps} == {"0", "1"}


# Of two scenes, extend_step leaves one to compute.
@pytest.mark.parametrize(
    ("phase", "scenes"), [("forward", 2), ("sample_step", 4), ("extend_step", 2)]
)
def test_phases_of_latents_in_bfloat16(phase, scenes, tiny_config, monkeypatch):
    monkeypatch.setattr("m2dit_jax.tools.benchmarking.timing.MATMUL_SIDE", 64)
    latents = {"source": "latents", "height": 32, "width": 64, "text_dim": 24, "channels": 4}
    tiny_config.data.update(latents | {"frames": 5})
    tiny_config.model.patch_size = 2
    tiny_config.train.compute_dtype = "bfloat16"
    figures = time_phase(phase, Config.from_dict(tiny_config), OPTIONS)
    tokens = 4 * scenes * (8 + 2 * 4)  # stories, scenes of all branches, text and video tokens
    assert figures["tokens_per_second"] * figures["seconds"]["median"] == pytest.approx(tokens)
    assert figures["cpus"] == len(os.sched_getaffinity(0))


def test_random_batches_are_like_those_of_training(tiny_config):
    recipe = build_recipe(tiny_config)
    [(real, frames)] = open_training_data(recipe).batch_shapes
    assert frames is None
    made = random_batch(recipe)
    assert type(made) is type(real)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(made)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(real)
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threads=1000"], "--threads must be 1 to "),
        (
            ["--phases=forward,backward"],
            "--phases must be of forward,train_step,sample_step,extend_step",
        ),
        (["--config.model.layer=1"], "the nearest is --config.model.layers"),
    ],
)
def test_wrong_flags_are_refused(flags, message, tiny_flags, capfd):
    assert main([*tiny_flags, *flags]) == 2
    assert message in capfd.readouterr().err


def test_the_sizes_of_bench_medium():
    config = bench_medium.get_config()
    assert build_recipe(config).latent_shape() == (5, 16, 16, 16)
    assert build_recipe(config).story_layout().tokens == 3 * (32 + 5 * 8 * 8) == 1056
