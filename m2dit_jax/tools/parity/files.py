"""The kinds of files in a golden set, and what each is held against."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2dit_jax.models.families import family_of
from m2dit_jax.tools.parity import (
    functions,
    networks,
    pipelines,
    training,
    wan_networks,
    wan_pipelines,
    wan_schedulers,
    wan_training,
    wan_vae,
)
from m2dit_jax.tools.parity.golden import EXACT, Case, GoldenFile, failure, read_npz
from m2dit_jax.tools.parity.models import ReferenceModels
from m2dit_jax.weights.networks import read_json_as
from m2dit_jax.weights.safetensors_files import open_safetensors

Check = Callable[[Path, str, ReferenceModels], list[Case]]


def _of_arrays(check: Callable[[GoldenFile, ReferenceModels], None]) -> Check:
    """A check of a file, from a check of an npz file's arrays."""

    def run(root: Path, name: str, models: ReferenceModels) -> list[Case]:
        file = read_npz(root, name)
        try:
            check(file, models)
        except Exception as error:  # one case that cannot be run is reported among the others
            file.cases.append(failure(name, f"{type(error).__name__}: {error}"))
        return file.finish()

    return run


def _of_arrays_and_root(check: Callable[[Path, GoldenFile, ReferenceModels], None]) -> Check:
    """A check of a file, from one that also reads files beside the npz file."""

    def run(root: Path, name: str, models: ReferenceModels) -> list[Case]:
        return _of_arrays(lambda file, models: check(root, file, models))(root, name, models)

    return run


def _check_sharded(root: Path, name: str, models: ReferenceModels) -> list[Case]:
    """A folder of shards holds exactly the tensors of the folder that it is named after."""
    shards = open_safetensors((root / name).parent)
    whole = open_safetensors((root / name).parent.with_name(_whole(name)))
    wrong = [
        key
        for key in shards.keys() | whole.keys()
        if key not in shards
        or key not in whole
        or not np.array_equal(shards[key].read(), whole[key].read())
    ]
    note = f"differ: {', '.join(sorted(wrong))}" if wrong else ""
    return [Case(name, float(len(wrong)), EXACT, passed=not wrong, note=note)]


def _whole(name: str) -> str:
    return Path(name).parent.name.removesuffix("_sharded")


@dataclass(frozen=True)
class Kinds:
    """The kinds of files in a family's sets.

    `checks` have the pattern of the file's name within the set, and its check. `parts` are read by
    these; of `required_parts` not every training file has all, but some must.
    """

    checks: dict[str, tuple[str, Check]]
    required_parts: dict[str, str]
    parts: tuple[str, ...]


_MANIFEST = (
    r"manifest\.json",
    lambda root, name, models: functions.check_manifest(root, name),
)
COGVIDEOX = Kinds(
    checks={
        "manifest": _MANIFEST,
        "sharded weights": (r"pipe_\w+/\w+_sharded/[\w.]+\.index\.json", _check_sharded),
        "tokenizer": (r"tokenizer_golden\.json", functions.check_tokenizer),
        "rope": (r"transformer/rope\.npz", _of_arrays(functions.check_rope)),
        "schedulers": (r"schedulers\.npz", _of_arrays(functions.check_schedulers)),
        "attention": (r"attention_mask\.npz", _of_arrays(networks.check_attention)),
        "text encoder": (r"t5\.npz", _of_arrays(networks.check_text_encoder)),
        "transformer": (
            r"transformer/(fwd|cond|inter)_\w+\.npz",
            _of_arrays(networks.check_transformer),
        ),
        "vae encode": (r"vae/encode_\w+\.npz", _of_arrays(networks.check_vae_encode)),
        "vae decode": (r"vae/decode_\w+\.npz", _of_arrays(networks.check_vae_decode)),
        "pipelines": (r"pipelines/\w+\.npz", _of_arrays_and_root(pipelines.check_pipeline)),
        "training": (r"training/\w+\.npz", _of_arrays_and_root(training.check_training)),
    },
    required_parts={
        "gradients": r"training/\w+_grads\.safetensors",
        "optimizer": r"training/\w+_params_after_adamw\.safetensors",
    },
    parts=(r"README\.md", r"(pipe|transformer)_\w+/.*", r"pipelines/\w+\.json"),
)
WAN = Kinds(
    checks={
        "manifest": _MANIFEST,
        "rope": (r"transformer/rope_\w+\.npz", _of_arrays(wan_networks.check_rope)),
        "schedulers": (r"schedulers\.npz", _of_arrays(wan_schedulers.check_schedulers)),
        "text encoder": (r"umt5\.npz", _of_arrays_and_root(wan_networks.check_text_encoder)),
        "transformer": (
            r"transformer/(fwd|cond|inter)_\w+\.npz",
            _of_arrays(wan_networks.check_transformer),
        ),
        "vae encode": (r"vae/encode_\w+\.npz", _of_arrays(wan_vae.check_vae_encode)),
        "vae decode": (r"vae/decode_\w+\.npz", _of_arrays(wan_vae.check_vae_decode)),
        "pipelines": (r"pipelines/\w+\.npz", _of_arrays_and_root(wan_pipelines.check_pipeline)),
        "training": (r"training/\w+\.npz", _of_arrays_and_root(wan_training.check_training)),
    },
    required_parts={"gradients": r"training/\w+_grads\.safetensors"},
    parts=(r"README\.md", r"pipe_\w+/.*", r"pipelines/\w+\.json", r"umt5_texts\.json"),
)


def kinds_of(root: Path) -> Kinds:
    """The kinds of files that a set has, by the family of its first model folder."""
    configs = sorted(root.glob("pipe_*/transformer/config.json"))
    return WAN if configs and read_json_as(family_of, configs[0]).name == "wan" else COGVIDEOX


def golden_files(root: Path) -> tuple[dict[str, str], list[Case]]:
    """Files to check with their kinds, and a failure for each file of no known kind."""
    found, unknown = {}, []
    of_set = kinds_of(root)
    parts = (*of_set.parts, *of_set.required_parts.values())
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        kinds = [
            kind for kind, (pattern, _) in of_set.checks.items() if re.fullmatch(pattern, name)
        ]
        if kinds:
            found[name] = kinds[0]
        elif not any(re.fullmatch(pattern, name) for pattern in parts):
            unknown.append(failure(name, "a file of no known kind, not exercised"))
        elif not _has_owner(path):
            unknown.append(failure(name, "not exercised: no npz file of its name"))
    return found, unknown


def not_exercised(root: Path, names: dict[str, str]) -> list[Case]:
    """A failure for each kind of file, and of part of the training files, that is not there."""
    of_set = kinds_of(root)
    patterns = {
        kind: pattern for kind, (pattern, _) in of_set.checks.items() if kind not in names.values()
    }
    parts = [path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")]
    patterns |= {
        kind: pattern
        for kind, pattern in of_set.required_parts.items()
        if not any(re.fullmatch(pattern, part) for part in parts)
    }
    return [
        failure(kind, f"not exercised: no file is like {pattern}")
        for kind, pattern in patterns.items()
    ]


def _has_owner(path: Path) -> bool:
    """Whether the npz file whose check reads this one is there."""
    if path.parent.name == "pipelines" or path.parent.name == "training":
        stem = re.sub(r"_(grads|params_after_adamw)$", "", path.stem)
        return path.with_name(f"{stem}.npz").exists()
    return True


def run_checks(root: Path, names: dict[str, str], models: ReferenceModels) -> Iterator[Case]:
    """The cases of the files, one after another."""
    checks = kinds_of(root).checks
    for name, kind in names.items():
        try:
            yield from checks[kind][1](root, name, models)
        except Exception as error:
            yield failure(name, f"{type(error).__name__}: {error}")
