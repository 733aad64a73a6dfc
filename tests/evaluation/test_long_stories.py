import json

import numpy as np
import pytest

from m2dit_jax import evaluate
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.evaluation.long_stories import (
    held_out_stories,
    sample_long_stories,
    score_by_scene,
)
from m2dit_jax.evaluation.world_scores import SCORERS
from m2dit_jax.stories.windows import Windows
from tests.engines import random_engine

OPTIONS = SamplingOptions(steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def engine(make_tiny_config):
    return random_engine(make_tiny_config())


def test_scores_belong_to_the_place_of_a_scene():
    source = ShapesSource(0, 5, 3, 16, True, 8)
    stories = [source[i] for i in range(8)]
    video = np.stack([story["video"] for story in stories])
    video[:, 3] = 0
    by_scene, whole = score_by_scene(
        SCORERS["shapes"], video, [story["scenes"] for story in stories]
    )
    shape = [scores["shape"].value for scores in by_scene]
    assert shape == [1, 1, 1, 0, 1]
    assert by_scene[0]["it"].n == 0 and by_scene[1]["background"].n == 8
    assert [scores["psnr"].value for scores in by_scene[:3]] == [60, 60, 60]
    of_black = {name: by_scene[3][name].value or 0 for name in ("psnr", "actor_rms")}
    assert 5 < of_black["psnr"] < 20 and of_black["actor_rms"] > 50
    assert whole["psnr"].value == pytest.approx((4 * 60 + of_black["psnr"]) / 5)
    assert whole["background_rms"].value == 0
    assert whole["shape"].value == pytest.approx(0.8) and whole["same_actor"].value == 0


def test_stories_do_not_depend_on_their_batch(engine):
    (stories,) = held_out_stories(engine.trained.recipe, 4, 3, seed=1)
    windows, groups = Windows(2, 1, True), []
    together = sample_long_stories(
        engine, stories, windows, seed=5, options=OPTIONS, progress=groups.append
    )
    alone = sample_long_stories(
        engine, stories[1:2], windows, seed=5, options=OPTIONS, first_index=1
    )
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert [group.new for group in groups] == [(0, 1), (2,), (3,)]
    assert len({scene.tobytes() for scene in together[0]}) == 4


def test_stories_come_in_batches_of_nearly_one_size(engine):
    batches = held_out_stories(engine.trained.recipe, 2, 10, seed=0, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(batches[0][0].scenes) == 2


@pytest.mark.slow
def test_the_command_scores_by_scene(tmp_path, tiny_flags, capsys):
    from m2dit_jax import train

    workdir = tmp_path / "run"
    assert (
        train.main(
            [
                *tiny_flags,
                f"--workdir={workdir}",
                "--config.train.steps=1",
                "--config.train.warmup_steps=0",
            ]
        )
        == 0
    )
    flags = [f"--checkpoint={workdir}", "--scenes=3", "--stories=2", "--no-anchor"]
    files = [f"--json={tmp_path}/a.json", f"--sheet={tmp_path}/a.png"]
    assert evaluate.main([*flags, *files]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["windows"] == {"window": 2, "new_scenes": 1, "anchor": False}
    assert [scores["background"]["n"] for scores in report["scenes"]] == [2, 2, 2]
    assert "2 stories, window 2, 1 new, without anchor" in capsys.readouterr().out
    assert (tmp_path / "a.png").exists()
