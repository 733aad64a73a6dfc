"""Damages files of each kind and counts what becomes of it: python -m tests.rot_campaign --each=200

Outcomes: "same" (what is read is bitwise what was written), "noticed" (refused with the name of the
file or folder, made again, or an older checkpoint is used), "silent" (anything else).
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from configs.base import get_config
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.data.encoded import EncodedDataset
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.training import checkpoints
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.utils import digests
from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.mapping import flatten
from m2dit_jax.weights.networks import load_params
from m2dit_jax.weights.run_folder import find_weights
from tests.conftest import TINY
from tests.data.test_encoded import VAE, write_dataset
from tests.rot import damaged
from tests.weights.tiny_models import CONFIGS, NETWORKS, tiny_network

# Reads what was damaged: raises ValueError or KeyError if that is noticed.
Read = Callable[[], list[np.ndarray]]


class Noticed(ValueError):
    """An older checkpoint is used."""


def main() -> int:
    """Prints a table; exit status 1 if any damage was silent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=100, help="damages of each kind")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    silent = 0
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'kind':28} {'same':>6} {'noticed':>8} {'silent':>7}")
        for name, (files, read) in _kinds(Path(folder)).items():
            found = _count(files, read, flags.each, random.Random(flags.seed))
            print(f"{name:28} {found['same']:6} {found['noticed']:8} {found['silent']:7}")
            silent += found["silent"]
    return 1 if silent else 0


def _count(files: list[Path], read: Read, each: int, rng: random.Random) -> Counter[str]:
    wanted, outcomes = read(), Counter()
    files = [path for path in files if path.stat().st_size]
    weights = [path.stat().st_size ** 0.5 for path in files]  # or all would be in the largest
    for _ in range(each):
        (path,) = rng.choices(files, weights)
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        digests._read_before.clear()  # the clock of files may be too coarse
        try:
            with redirect_stderr(StringIO()):
                found = read()
            same = all(map(np.array_equal, found, wanted))
            outcomes["same" if same else "silent"] += 1
        except (ValueError, KeyError):
            outcomes["noticed"] += 1
        path.write_bytes(good)
    return outcomes


def _kinds(folder: Path) -> dict[str, tuple[list[Path], Read]]:
    kinds: dict[str, tuple[list[Path], Read]] = _checkpoint(folder / "run")
    network = tiny_network(folder / "source", "transformer")
    for name, source, output in (
        ("converted, Orbax", network, folder / "orbax"),
        ("exported, safetensors", folder / "orbax", folder / "back"),
    ):
        execute(make_plan(source, output, None, None), lambda nbytes: None)
        kinds[name] = _files(output), lambda output=output: _network(output)
    kinds |= _store(folder / "scenes")
    write_dataset(folder / "set", VAE)
    records = sorted((folder / "set").glob("*array_record*"))
    others = [path for path in _files(folder / "set") if path not in records]
    kinds["dataset, records"] = records, lambda: _dataset(folder / "set")
    kinds["dataset, other files"] = others, lambda: _dataset(folder / "set")
    return kinds


def _checkpoint(workdir: Path) -> dict[str, tuple[list[Path], Read]]:
    config = get_config()
    config.update_from_flattened_dict(TINY)
    recipe = build_recipe(Config.from_dict(config))
    optimizer = make_optimizer(recipe.config.train, recipe.config.trains_text_encoder)
    params = jax.jit(recipe.init_params)(jax.random.key(0))
    state = TrainState.create(params, optimizer, 0.9)
    manager = checkpoints.open_manager(workdir, keep=2)
    for step in (1, 2):
        checkpoints.save(manager, state._replace(step=np.int32(step)), recipe.config)
    manager.close()
    here = SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=here), state)
    files = _files(workdir / "checkpoints/2")

    def sample() -> list[np.ndarray]:
        found = find_weights(workdir)
        if found.step != 2:
            raise Noticed
        return jax.tree.leaves(jax.tree.map(np.asarray, found.load()))

    def train() -> list[np.ndarray]:
        manager = checkpoints.open_manager(workdir, keep=2)
        try:
            restored = checkpoints.restore_latest(manager, like)
        finally:
            manager.close()
        aside = workdir / checkpoints.DAMAGED / "2"
        if aside.exists():
            aside.rename(workdir / "checkpoints/2")
            raise Noticed
        return jax.tree.leaves(jax.tree.map(np.asarray, restored))

    return {"checkpoint, sampling": (files, sample), "checkpoint, training": (files, train)}


def _network(folder: Path) -> list[np.ndarray]:
    network = NETWORKS["transformer"]
    params = flatten(load_params(folder, network, network.abstract(CONFIGS["transformer"])))
    return [np.asarray(params[name]) for name in sorted(params)]


def _store(folder: Path) -> dict[str, tuple[list[Path], Read]]:
    store, rng = SceneStore(folder), np.random.default_rng(0)
    store.put_latents("a", rng.normal(size=(2, 3, 4, 5)).astype(np.float32), {})
    store.put_frames("a", rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8), "whole")
    store.put_text("a", rng.normal(size=(3, 4)).astype(np.float32))
    latents, frames, text = "a.safetensors", "a.frames.safetensors", "a.text.safetensors"
    return {
        "scene, latents": ([folder / latents], lambda: [SceneStore(folder).latents("a")]),
        "scene, frames": ([folder / frames], lambda: [SceneStore(folder).frames("a")]),
        "scene, text": ([folder / text], lambda: [SceneStore(folder).text("a")]),
    }


def _dataset(folder: Path) -> list[np.ndarray]:
    dataset = EncodedDataset(folder)
    numbers = [dataset.info.scaling_factor, *dataset.scene_counts]
    arrays = [dataset[i][name] for i in range(len(dataset)) for name in dataset.info.arrays]
    return [np.asarray(numbers), dataset.empty_caption, *arrays]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
