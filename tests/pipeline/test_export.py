"""Runs with a text encoder of their own; tests/test_two_stages.py has those on latents."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from m2dit_jax import convert, load
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.training import checkpoints
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights.run_folder import find_weights
from tests.engines import random_params

pytestmark = pytest.mark.slow

PROMPTS = ["a red cross moves left on gray", "it moves up on navy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_tiny_config):
    recipe = build_recipe(make_tiny_config())
    optimizer = make_optimizer(recipe.config.train, True)
    state = TrainState.create(random_params(recipe, scale=0.1), optimizer, 0.9)
    folder = tmp_path_factory.mktemp("run")
    manager = checkpoints.open_manager(folder, keep=1)
    checkpoints.save(manager, state._replace(step=jnp.int32(3)), recipe.config)
    manager.close()
    return folder


def test_run_and_converted_run_make_the_same_frames(run, tmp_path, capsys):
    converted = tmp_path / "converted"
    assert convert.main([f"--source={run}", f"--output={converted}"]) == 0
    assert f"{run}/checkpoints/3: weights ema of step 3" in capsys.readouterr().out
    assert sorted(path.name for path in converted.glob("[!.]*")) == [
        "digests.json",
        "m2dit.json",
        "params",
    ]
    pipe = load(converted)
    assert pipe.trained is not None and pipe.trained.step == 3
    assert pipe.defaults == load(run).defaults
    made = pipe(PROMPTS, seed=1, steps=2)
    for source in (run, run / "checkpoints" / "3"):
        assert load(source)(PROMPTS, seed=1, steps=2).digest == made.digest


def test_the_arrays_are_a_plain_orbax_checkpoint(run, tmp_path):
    flags = [f"--source={run}", f"--output={tmp_path}/half", "--dtype=bfloat16"]
    assert convert.main([*flags, "--weights=params"]) == 0
    tree = ocp.StandardCheckpointer().restore(tmp_path / "half" / "params")
    assert tree.keys() == {"transformer", "text_encoder"}
    assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}
    record = json.loads((tmp_path / "half" / "m2dit.json").read_text())
    assert record["weights"] == "params" and record["config"]["data"]["source"] == "shapes"
    # And once more, as another dtype
    again = [f"--source={tmp_path}/half", f"--output={tmp_path}/again", "--dtype=float32"]
    assert convert.main(again) == 0
    found, expected = find_weights(tmp_path / "again").load(), find_weights(run).load()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), found, expected
    )


@pytest.mark.parametrize("flag", ["--to=diffusers", "--base=models/CogVideoX-5b"])
def test_what_needs_a_base_is_refused(run, tmp_path, capsys, flag):
    assert convert.main([f"--source={run}", f"--output={tmp_path}/out", flag]) == 2
    assert "this model has a text encoder of its own" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "needs the format 1 .*, found the format 2"),
        ({"step": None}, "needs the format 1 .* without step"),
    ],
)
def test_a_record_of_another_kind_is_refused(run, tmp_path, change, message):
    assert convert.main([f"--source={run}", f"--output={tmp_path}/out"]) == 0
    file = tmp_path / "out" / "m2dit.json"
    record = json.loads(file.read_text()) | change
    file.write_text(json.dumps({name: x for name, x in record.items() if x is not None}))
    (tmp_path / "out" / "digests.json").unlink()
    with pytest.raises(ValueError, match=f"m2dit.json: {message}"):
        load(tmp_path / "out")
