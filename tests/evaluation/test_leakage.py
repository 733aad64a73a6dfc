import json

import numpy as np
import pytest
from PIL import Image

from m2dit_jax import evaluate, train
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.leakage import measure_leakage
from tests.engines import random_engine

OPTIONS = SamplingOptions(steps=2, guidance_scale=1.0)


def measure(config, mask):
    with config.unlocked():
        config.model.mask, config.model.layers, config.data.scenes = mask, 2, 3
    # What a fresh model has as zeros would hide everything.
    return measure_leakage(random_engine(config, scale=0.2), 2, 0, OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["symmetric", "causal"])
def test_a_prompt_reaches_other_scenes_from_the_second_block_on(tiny_config, mask):
    report = measure(tiny_config, mask)
    elsewhere = ~np.eye(3, dtype=bool)
    one, two = report.influence
    assert (one[elsewhere] == 0).all() and (two[elsewhere] > 0).all()
    assert np.diag(one).mean() == pytest.approx(1) and (np.diag(two) > 0).all()
    assert (report.evaluated > 0).all() and (report.finished > 0).all()


def test_without_a_mask_it_does_so_at_once(tiny_config):
    one, _ = measure(tiny_config, "full").influence
    assert (one > 0).all()


def test_alone_it_never_does(tiny_config):
    report = measure(tiny_config, "independent")
    elsewhere = ~np.eye(3, dtype=bool)
    for matrix in (*report.influence, report.evaluated, report.finished):
        assert (matrix[elsewhere] == 0).all() and (np.diag(matrix) > 0).all()


@pytest.mark.slow
def test_the_command_writes_tables_and_a_picture(tiny_flags, tmp_path, capsys):
    workdir = tmp_path / "run"
    few = ["--config.train.steps=1", "--config.train.warmup_steps=0"]
    assert train.main([*tiny_flags, *few, f"--workdir={workdir}"]) == 0
    file, sheet = tmp_path / "new" / "leak.json", tmp_path / "leak.png"
    flags = [f"--checkpoint={workdir}", "--leakage", "--stories=2"]
    assert evaluate.main([*flags, f"--json={file}", f"--sheet={sheet}"]) == 0
    content = json.loads(file.read_text())
    assert content["stories"] == 2 and content["mask"] == "symmetric"
    assert np.shape(content["finished"]) == (2, 2)
    assert [entry["blocks"] for entry in content["influence"]] == [1]
    with Image.open(sheet) as image:
        assert image.width > 3 * 2 * 50
    assert "change of the finished scenes" in capsys.readouterr().out
