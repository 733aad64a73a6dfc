"""The kinds of inputs: how a good one is made, how it is damaged, and how commands read it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from m2dit_jax.tools.fuzz import samples
from m2dit_jax.tools.fuzz.mutate import (
    dump_json,
    dump_yaml,
    odd_bytes,
    odd_file,
    odd_text,
    odd_tree,
)


@dataclass(frozen=True)
class Kind:
    """A kind of input, a folder each.

    `make` writes good ones into a folder, each in a folder of its own. `damage` changes the files
    of one. `read` reads it as commands do, and raises as they do. `share` is how many of a hundred
    inputs are of the kind: the dear ones are fewer.
    """

    share: int
    make: Callable[[Path], None]
    damage: Callable[[Path, Random], None]
    read: Callable[[Path], None]


# --- damage


def _damage_text(folder: Path, random: Random) -> None:
    """One text file: as a tree where it is JSON or YAML, as text, as bytes, or as a file."""
    files = [path for path in samples.files_of(folder) if path.suffix in samples.TEXTS]
    path = random.choice(files)
    text = path.read_text(encoding="utf-8")
    draw = random.random()
    if draw < 0.02:
        odd_file(path, random)
    elif draw < 0.6 and (tree := samples.tree_of(path, text)) is not None:
        path.write_bytes(_dumped(path, odd_tree(tree, random), random))
    else:
        path.write_bytes(odd_text(text, random))


def _dumped(path: Path, tree: Any, random: Random) -> bytes:
    if path.suffix == ".jsonl":
        entries = tree if isinstance(tree, list) else [tree]
        text = "\n".join(dump_json(entry).replace("\n", " ") for entry in entries)
    elif path.suffix == ".yaml" and random.random() < 0.7:
        text = dump_yaml(tree)
    else:
        text = dump_json(tree)
    return text.encode("utf-8", "surrogatepass")


def _damage_any(folder: Path, random: Random) -> None:
    """One file: text as text or tree, others as bytes or as a file."""
    path = random.choice(samples.files_of(folder))
    if path.suffix in samples.TEXTS or path.name in samples.JSON_NAMES:
        text = path.read_text(encoding="utf-8")
        tree = samples.tree_of(path, text)
        if tree is not None and random.random() < 0.7:
            path.write_bytes(_dumped(path, odd_tree(tree, random), random))
            return
        path.write_bytes(odd_text(text, random))
    elif random.random() < 0.05:
        odd_file(path, random)
    elif path.suffix == ".safetensors" and random.random() < 0.5:
        path.write_bytes(_odd_header(path.read_bytes(), random))
    else:
        path.write_bytes(odd_bytes(path.read_bytes(), random))


def _odd_header(data: bytes, random: Random) -> bytes:
    """A safetensors file with an odd tree for a header, of the right length."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = dump_json(odd_tree(json.loads(data[8:end]), random))
    encoded = header.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + data[end:]


# --- reading, as commands do; imports stand within, as each worker needs some of them


def _read_storyboard(folder: Path) -> None:
    from m2dit_jax.stories.storyboard import Storyboard

    storyboard = Storyboard.read(folder / samples.STORYBOARD)
    Storyboard.from_mapping(storyboard.to_mapping())


def _read_manifest(folder: Path) -> None:
    from m2dit_jax.data.manifest import read_manifest

    found = [*folder.glob("manifest.*"), folder / "manifest.csv"]
    read_manifest(found[0], folder)


def _read_config(folder: Path) -> None:
    from m2dit_jax.config.schema import Config
    from m2dit_jax.train import read_flags

    flags = folder / samples.FLAGS
    if flags.exists():
        read_flags(["--config=base", *json.loads(flags.read_text(encoding="utf-8"))])
    else:
        config = json.loads((folder / samples.CONFIG).read_text(encoding="utf-8"))
        Config.from_dict(config)


def _damage_config(folder: Path, random: Random) -> None:
    """Values that a config file may have, or flags: both of any type, in a readable file."""
    flags, config = folder / samples.FLAGS, folder / samples.CONFIG
    if flags.exists():
        names = [flag.partition("=")[0] for flag in json.loads(flags.read_text(encoding="utf-8"))]
        values = ("nan", "inf", "-1", "0", "1e400", "4294967296", "", "()", "(1,", "1.5", "True")
        values += ("9" * 400, "x" * 1000, "[1]", "1e26", "\0", "é")
        chosen = [f"{name}={random.choice(values)}" for name in random.sample(names, 2)]
        flags.write_text(json.dumps(chosen), encoding="utf-8")
        return
    tree = json.loads(config.read_text(encoding="utf-8"))
    while True:
        text = dump_json(odd_tree(tree, random))
        if "[" * 99 in text or "9" * 4400 in text:
            continue  # no Python file has such values
        changed = json.loads(text)
        if isinstance(changed, dict):  # `get_config` returns nothing else
            config.write_text(text, encoding="utf-8")
            return


def _read_model_folder(folder: Path) -> None:
    from m2dit_jax.weights.model_folder import find_components
    from m2dit_jax.weights.released import ReleasedModel

    model = ReleasedModel(folder)
    find_components(folder)
    model.latent_shape(model.frames, model.height, model.width)
    model.transformer("float32")
    model.text_encoder("float32")


def _read_video(folder: Path) -> None:
    from contextlib import closing

    from m2dit_jax.data.video import Video
    from m2dit_jax.utils.media import check_clip, read_clip

    path = [*folder.iterdir(), folder / "clip.mp4"][0]
    check_clip(path)
    read_clip(path, 3, 16, 24)
    with closing(Video(path, time_limit=10)) as video:
        video.info()
        video.read([0, 2], 16, 24)


def _damage_checkpoint(folder: Path, random: Random) -> None:
    """Half of them without digests, as older versions wrote them: else all damage ends there."""
    if random.random() < 0.5:
        for digests in folder.rglob("digests.json"):
            digests.unlink()
    _damage_any(folder, random)


def _read_checkpoint(folder: Path) -> None:
    from m2dit_jax.config.schema import Config
    from m2dit_jax.weights.adapted_run import find_weights

    found = find_weights(folder)
    Config.from_dict(found.config, found.place)
    found.load()


KINDS: Mapping[str, Kind] = {
    "storyboards": Kind(36, samples.make_storyboards, _damage_text, _read_storyboard),
    "manifests": Kind(28, samples.make_manifests, _damage_text, _read_manifest),
    "configs": Kind(14, samples.make_configs, _damage_config, _read_config),
    "videos": Kind(14, samples.make_videos, _damage_any, _read_video),
    "model_folders": Kind(5, samples.make_model_folder, _damage_any, _read_model_folder),
    "checkpoints": Kind(3, samples.make_checkpoint, _damage_checkpoint, _read_checkpoint),
}


def make_input(kind: str, good: Path, number: int, seed: int, folder: Path) -> None:
    """Writes the input with this number into the folder: the same for the same seed.

    `good` is where `Kind.make` wrote.
    """
    random = Random(f"{seed}/{kind}/{number}")
    choices = sorted(path for path in good.iterdir() if path.is_dir())
    shutil.copytree(random.choice(choices), folder)
    KINDS[kind].damage(folder, random)
