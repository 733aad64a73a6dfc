"""A training of the Wan family from end to end, on drawn stories."""

import json

import pytest

from configs import wan_1_3b
from m2dit_jax import sample, train
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.training.first_state import check_init_from
from tests.test_sample import PROMPTS, ROOT

pytestmark = pytest.mark.e2e

WAN = [
    *("--config.model.family=wan", "--config.model.hidden=24", "--config.model.heads=1"),
    *("--config.model.head_dim=16", "--config.model.layers=1", "--config.model.time_dim=16"),
    "--config.model.added_positions=False",
    *("--config.diffusion.kind=flow", "--config.diffusion.shift=3", "--config.train.steps=2"),
    *("--config.diffusion.prediction=v", "--config.sample.sampler=unipc"),
    *("--config.train.warmup_steps=0", "--config.train.batch_size=2", "--config.sample.steps=3"),
    "--config.train.eval_every=0",
]


@pytest.mark.slow  # the family through all of training, and sampled from the run
def test_a_run_of_the_family_is_trained_and_sampled(tmp_path, capsys):
    flags = [f"--config={ROOT}/configs/base.py", *WAN, f"--workdir={tmp_path / 'run'}"]
    assert train.main(flags) == 0, capsys.readouterr().err
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    out = tmp_path / "out"
    status = sample.main([f"--checkpoint={tmp_path / 'run'}", *prompts, f"--output={out}"])
    assert status == 0, capsys.readouterr().err
    assert json.loads((out / "story.json").read_text())["storyboard"]["sampler"] == "unipc"


def test_positions_that_the_family_does_not_have_are_refused(tmp_path, capsys):
    flags = [f"--config={ROOT}/configs/base.py", f"--workdir={tmp_path / 'run'}"]
    assert train.main([*flags, "--config.model.family=wan"]) == 2
    assert "the family wan has rotary positions" in capsys.readouterr().err


def test_one_of_two_transformers_is_not_trained_as_if_it_were_all(tmp_path):
    folder = tmp_path / "model"
    for name in ("transformer", "transformer_2"):
        (folder / name).mkdir(parents=True)
    (folder / "model_index.json").write_text('{"boundary_ratio": 0.875}')
    config = wan_1_3b.get_config()
    config.train.init_from = str(folder)
    with pytest.raises(ValueError, match="(?s)config.train.init_from: .*it has two transformers"):
        check_init_from(build_recipe(config))
