"""Stories of latents: a transformer trained here, text encoder and VAE of a released model."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from m2dit_jax.config.recipe import build_recipe, make_transformer_config
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.pipeline.released_stories import ReleasedStories
from m2dit_jax.pipeline.trained_stories import trained_defaults
from m2dit_jax.stories.settings import SamplingSettings
from m2dit_jax.weights.run_folder import (
    checkpoint_fingerprint,
    latest_step,
    load_config,
    load_for_sampling,
)


class TrainedLatents(ReleasedStories):
    """A `StoryMaker` of the workdir of a run on latents.

    `model` is the folder of the released model that the videos were encoded with. Raises
    CheckpointError if there is no checkpoint, ValueError if config and folder do not go together.
    """

    def __init__(
        self, workdir: Path, model: Path, dtype: str | None = None, decoder: str | None = None
    ):
        super().__init__(model, dtype, decoder)
        self.workdir = workdir
        self.config = load_config(workdir)
        self.recipe = build_recipe(self.config)
        data = self.config.data
        fits = {
            "channels": (data.channels, self.model.vae_config.latent_channels),
            "text_dim": (data.text_dim, self.model.text_encoder_config.d_model),
            "text_length": (data.text_length, self.model.text_length),
        }
        for name, (trained, there) in fits.items():
            if trained != there:
                raise ValueError(
                    f"config.data.{name} of {workdir} is {trained}, that of {model} {there}: the "
                    "videos were encoded with another model"
                )
        self.model.transformer_config = make_transformer_config(self.config)

    @property
    def schedule(self) -> NoiseSchedule:
        """As in training."""
        return self.recipe.schedule

    @property
    def defaults(self) -> SamplingSettings:
        """From `config.sample` and `config.data`."""
        return trained_defaults(self.recipe)

    @property
    def source(self) -> str:
        """Where the defaults are written."""
        return "config.sample"

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint, and of the other networks."""
        return f"{checkpoint_fingerprint(self.workdir)} {super().fingerprint}"

    def _transformer(self, mesh: Mesh) -> LoadedNetwork:
        _, params, _ = load_for_sampling(self.workdir, mesh)
        return LoadedNetwork(self.recipe.graphdef, params)

    def provenance(self) -> dict[str, Any]:
        """Checkpoint, config, and the folder of the other networks."""
        return super().provenance() | {
            "checkpoint": {"path": str(self.workdir.absolute()), "step": latest_step(self.workdir)},
            "model": str(self.model.path.absolute()),
            "config": self.config.to_dict(),
        }
