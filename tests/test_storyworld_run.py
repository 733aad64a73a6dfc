"""A run on the storyworld from end to end: trained, sampled from a storyboard, scored."""

import json

import numpy as np
import pytest

from m2dit_jax import evaluate, sample, train

SIZES = {
    "data.source": "storyworld",
    "data.size": 24,
    "data.scenes": 2,
    "data.frames": 6,
    "data.short_frames": 3,
    "data.text_length": 20,
    "model.patch_size": 8,
    "model.patch_size_t": 3,
    "train.batch_size": 2,
    "train.steps": 3,
    "train.warmup_steps": 1,
    "train.log_every": 1,
    "train.eval_every": 3,
    "train.eval_stories": 3,
    "sample.steps": 2,
}
BOARD = """
global_prompt: at dusk
scenes:
  - prompt: a red ghost with a hat and a blue box meet at the sea
  - prompt: they jump in the city
    frames: 3
  - prompt: the first one turns back at the sea
"""


@pytest.mark.e2e
@pytest.mark.slow  # three programs are compiled: no other test trains scenes of unequal length
def test_a_run_is_trained_sampled_and_scored(tiny_flags, tmp_path, capsys):
    run, board = tmp_path / "run", tmp_path / "board.yaml"
    flags = [f"--config.{name}={value}" for name, value in SIZES.items()]
    assert train.main([*tiny_flags, *flags, f"--workdir={run}"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in lines) == 3
    assert any("generation/same_look" in line for line in lines)

    board.write_text(BOARD, encoding="utf-8")
    out = [f"--storyboard={board}", f"--output={tmp_path / 'out'}"]
    assert sample.main([f"--checkpoint={run}", *out]) == 0
    assert len(list((tmp_path / "out").glob("scene_*.mp4"))) == 3

    scores = tmp_path / "scores.json"
    assert evaluate.main([f"--checkpoint={run}", "--stories=3", f"--json={scores}"]) == 0
    found = json.loads(scores.read_text())["extension"]
    assert found["place"]["n"] == 3 and np.isfinite(found["psnr"]["value"])
    assert "same_look" in capsys.readouterr().out
