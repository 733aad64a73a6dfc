import os
import random
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import SingleDeviceSharding

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.training import checkpoints
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.utils import digests
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.run_folder import (
    CheckpointError,
    CheckpointGone,
    find_weights,
    load_config,
)
from tests.rot import damaged


def load_for_sampling(path):
    found = find_weights(path)
    return found.config, found.load(), found.step


@pytest.fixture
def recipe(tiny_config):
    return build_recipe(tiny_config)


def _optimizer(recipe):
    return make_optimizer(recipe.config.train, recipe.config.trains_text_encoder)


@pytest.fixture
def state(recipe):
    params = jax.jit(recipe.init_params)(jax.random.key(0))
    state = TrainState.create(params, _optimizer(recipe), recipe.config.train.ema_decay)
    # Weights and their average must be told apart.
    return state._replace(ema=jax.tree.map(lambda x: x + 1, state.params))


@pytest.fixture
def workdir(tmp_path, state, recipe):
    """With checkpoints of steps 2, 4 and 6, of which two are kept."""
    manager = checkpoints.open_manager(tmp_path, keep=2)
    for step in (2, 4, 6):
        checkpoints.save(manager, state._replace(step=np.int32(step)), recipe.config)
    manager.close()
    return tmp_path


def test_keeps_the_latest(workdir):
    assert sorted(folder.name for folder in (workdir / "checkpoints").iterdir()) == ["4", "6"]
    assert run_folder.latest_step(workdir) == 6


def _placed(state, sharding):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), state
    )


def test_restores_the_state(workdir, state):
    sharding = SingleDeviceSharding(jax.devices()[0])
    like = _placed(state, sharding)
    manager = checkpoints.open_manager(workdir, keep=2)
    restored = checkpoints.restore_latest(manager, like)
    manager.close()
    assert restored is not None and restored.step == 6
    jax.tree.map(np.testing.assert_array_equal, restored._replace(step=state.step), state)


def test_nothing_to_restore(tmp_path, state):
    manager = checkpoints.open_manager(tmp_path, keep=2)
    assert checkpoints.restore_latest(manager, state) is None


def test_sampling_gets_the_averaged_weights_and_the_config(workdir, state, recipe):
    config, params, step = load_for_sampling(workdir)
    assert step == 6
    assert Config.from_dict(config) == recipe.config
    jax.tree.map(np.testing.assert_array_equal, params, state.ema)


def test_without_an_average_sampling_gets_the_latest_weights(tmp_path, tiny_config):
    tiny_config.model.base_grid = (13, 30, 45)
    recipe = build_recipe(tiny_config)
    params = jax.jit(recipe.init_params)(jax.random.key(0))
    state = TrainState.create(params, _optimizer(recipe), ema_decay=0.0)
    manager = checkpoints.open_manager(tmp_path, keep=1)
    checkpoints.save(manager, state._replace(step=np.int32(3)), recipe.config)
    like = _placed(state, SingleDeviceSharding(jax.devices()[0]))
    restored = checkpoints.restore_latest(manager, like)
    manager.close()
    assert restored is not None and restored.ema is None
    config, params, step = load_for_sampling(tmp_path)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    # Tuples are lists in the file, which must not make it another config.
    assert config.to_dict() == tiny_config.to_dict()


def test_sampling_does_not_read_the_optimizer_state(workdir, monkeypatch):
    asked = []
    restore = checkpoints.ocp.PyTreeCheckpointer.restore

    def spy(self, folder, args):
        asked.append(list(args.item))
        return restore(self, folder, args=args)

    monkeypatch.setattr(checkpoints.ocp.PyTreeCheckpointer, "restore", spy)
    load_for_sampling(workdir)
    assert asked == [["ema"]]


@pytest.mark.parametrize("load", [load_config, load_for_sampling])
def test_says_what_is_missing(load, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder; needs the folder of"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=rf"{tmp_path}: holds no checkpoint; needs"):
        load(tmp_path)
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        load(tmp_path)


def test_points_from_the_inner_folder_to_the_right_one(workdir):
    inner = workdir / "checkpoints"
    with pytest.raises(CheckpointError, match=rf"{inner}: .* try {workdir}$"):
        find_weights(inner)


def test_the_folder_of_a_step_has_its_weights(workdir, state):
    found = find_weights(workdir / "checkpoints" / "4")
    assert (found.step, found.weights) == (4, "ema")
    jax.tree.map(np.testing.assert_array_equal, found.load(), state.ema)


def test_the_weights_can_be_chosen(workdir, state):
    found = find_weights(workdir, "params")
    jax.tree.map(np.testing.assert_array_equal, found.load(), state.params)
    values = {".".join(map(str, path)): x for path, x in flatten_dict(state.params).items()}
    tensors = found.tensors()
    assert tensors.keys() == values.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.read(), values[name])


def test_weights_that_were_not_kept_are_refused(tmp_path, recipe):
    params = jax.jit(recipe.init_params)(jax.random.key(0))
    manager = checkpoints.open_manager(tmp_path, keep=1)
    checkpoints.save(manager, TrainState.create(params, _optimizer(recipe), 0.0), recipe.config)
    manager.close()
    with pytest.raises(ValueError, match=r"checkpoints/0: has the weights params, not ema"):
        find_weights(tmp_path, "ema").load()


# What orbax leaves behind when reading fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut short", "arrays missing", "state missing", "empty"])
def test_the_newest_good_checkpoint_is_used(damage, workdir, state, recipe, capsys):
    folder = workdir / "checkpoints" / "6"
    if damage == "cut short":
        for arrays in (folder / "state").rglob("d/*"):
            arrays.write_bytes(arrays.read_bytes()[:100])
    elif damage == "arrays missing":
        for arrays in (folder / "state").rglob("d/*"):
            arrays.unlink()
    elif damage == "state missing":
        shutil.rmtree(folder / "state")
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert load_for_sampling(workdir)[2] == 4
    assert f"{folder}: is damaged (" in capsys.readouterr().err
    if folder.joinpath("digests.json").is_file():
        with pytest.raises(CheckpointError, match=rf"{folder}: the checkpoint is damaged \(.+\); "):
            load_for_sampling(folder)
    manager = checkpoints.open_manager(workdir, keep=2)
    like = _placed(state, SingleDeviceSharding(jax.devices()[0]))
    restored = checkpoints.restore_latest(manager, like)
    assert restored is not None and restored.step == 4
    # The step can be saved again: what was damaged is out of the way.
    assert (workdir / "damaged_checkpoints/6").is_dir()
    checkpoints.save(manager, state._replace(step=np.int32(6)), recipe.config)
    manager.close()
    assert load_for_sampling(workdir)[2] == 6


def test_if_none_is_good_all_are_named(workdir, state):
    for step in ("4", "6"):
        (workdir / "checkpoints" / step / "state/manifest.ocdbt").unlink()
    message = (
        r"checkpoints: every checkpoint is damaged:\n  6: state/manifest.ocdbt is missing\n  4: "
    )
    with pytest.raises(CheckpointError, match=message):
        load_for_sampling(workdir)
    manager = checkpoints.open_manager(workdir, keep=2)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore_latest(manager, state)
    manager.close()
    assert run_folder.steps(workdir) == [6, 4]  # nothing is moved


def test_what_another_process_found_damaged_is_so_for_this_one(workdir, monkeypatch, capsys):
    found = {"compared/6": "process 1: state/d/a has changed\nprocess 2: state/ is missing"}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(checkpoints, "gather_errors", lambda name, problem: found.get(name))
    monkeypatch.setattr(checkpoints, "said_by_first", lambda name, text: text)
    checkpoints.compare_together(workdir)
    assert run_folder.latest_good_step(workdir) == 4
    assert (
        "6: is damaged (process 1: state/d/a has changed; process 2: state/ is missing); step 4 is"
    ) in capsys.readouterr().err
    folder = workdir / "checkpoints/6"
    other = folder.rename(workdir / "other")
    shutil.copytree(other, folder)  # as if it were saved anew
    os.utime(folder)
    assert run_folder.latest_good_step(workdir) == 6


def test_older_versions_wrote_no_digests(workdir, state):
    (workdir / "checkpoints/6/digests.json").unlink()
    config, params, step = load_for_sampling(workdir)
    assert step == 6
    for arrays in (workdir / "checkpoints/6/state").rglob("d/*"):
        arrays.unlink()
    message = r"/6: the checkpoint is damaged \(.+\); delete this folder"
    with pytest.raises(CheckpointError, match=message):
        load_for_sampling(workdir)


def test_rot_is_never_silent(workdir, state):
    """100 damages in any file: another checkpoint is used, or the weights are what they were."""
    rng, folder, used = random.Random(4), workdir / "checkpoints/6", []
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = [path.stat().st_size ** 0.5 for path in paths]  # or all would be in the largest
    for _ in range(100):
        (path,) = rng.choices(paths, sizes)
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        digests._read_before.clear()  # the clock of files may be too coarse
        found = find_weights(workdir)
        if found.step == 6:
            jax.tree.map(np.testing.assert_array_equal, found.load(), state.ema)
        used.append(found.step)
        path.write_bytes(good)
    assert used.count(4) > 80


def test_an_interrupt_is_no_damage(workdir, state, monkeypatch):
    """Orbax wraps a Ctrl-C while it reads in an error of its own."""

    def interrupted(*args, **kwargs):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("CANCELLED") from error

    found = find_weights(workdir)
    monkeypatch.setattr(checkpoints.ocp.PyTreeCheckpointer, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.load()
    manager = checkpoints.open_manager(workdir, keep=2)
    monkeypatch.setattr(manager, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.restore_latest(manager, state)
    manager.close()


def test_healthy_files_are_never_called_damaged(workdir, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    found = find_weights(workdir)
    monkeypatch.setattr(checkpoints.ocp.PyTreeCheckpointer, "restore", broken)
    message = r"/6: cannot be read, although its files are whole \(out of memory\)$"
    with pytest.raises(CheckpointError, match=message):
        found.load()


def test_a_checkpoint_that_training_deletes_meanwhile_is_not_damaged(workdir, state, recipe):
    found = find_weights(workdir)
    manager = checkpoints.open_manager(workdir, keep=1)
    checkpoints.save(manager, state._replace(step=np.int32(8)), recipe.config)
    manager.close()
    with pytest.raises(CheckpointGone, match=r"/6: has been deleted while it was read"):
        found.load()
    with pytest.raises(CheckpointGone):
        found.tensors()
    assert find_weights(workdir).step == 8


def test_the_latest_is_looked_for_again_if_it_goes_while_it_is_compared(
    workdir, state, recipe, monkeypatch
):
    differences = digests.differences

    def slow(folder, *args, **kwargs):
        if folder.name == "6":
            shutil.copytree(folder, folder.with_name("8"))
            shutil.rmtree(folder)
        return differences(folder, *args, **kwargs)

    monkeypatch.setattr(digests, "differences", slow)
    assert run_folder.latest_good_step(workdir) == 8
