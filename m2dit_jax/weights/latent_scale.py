"""The factor that the VAE's latents were multiplied by: of a model folder, or kept by a run."""

import json
from pathlib import Path

from m2dit_jax.models.families import family_of
from m2dit_jax.utils.files import write_json
from m2dit_jax.weights.networks import read_json_as
from m2dit_jax.weights.run_folder import workdir_of

FACTS = "latents.json"  # in a run's workdir


def keep_scaling_factor(workdir: Path, scaling_factor: float) -> None:
    """Writes the factor of the data of a run on latents into its workdir."""
    write_json(workdir / FACTS, {"scaling_factor": scaling_factor})


def find_scaling_factor(path: Path) -> float | None:
    """The factor of a model folder's VAE or of a run's data; None where neither is told.

    A run may be named by the folder of one of its steps.
    Raises ValueError, naming the file, if it is damaged.
    """
    path = workdir_of(Path(path).expanduser())
    if (path / "vae/config.json").is_file():
        config = path / "vae/config.json"
        vae = read_json_as(family_of, config).vae
        return read_json_as(vae.config, config).scaling_factor
    if (path / FACTS).is_file():
        try:
            return float(json.loads((path / FACTS).read_text(encoding="utf-8"))["scaling_factor"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path / FACTS}: is damaged ({error!r})") from error
    return None
