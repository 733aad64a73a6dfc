"""Numbers and pictures of a run for Weights & Biases, an extra."""

import hashlib
import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from m2dit_jax.training.metrics import Values, named_scalars
from m2dit_jax.utils.extras import how_to_install
from m2dit_jax.utils.media import write_gif

PROJECT = "m2dit_jax"


def import_wandb() -> Any:
    """The package. Raises ValueError, with how to install it, if it is missing."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ValueError(
            f"config.train.wandb needs the package wandb: {how_to_install('wandb')}; or "
            "--config.train.wandb=off"
        ) from error


class WandbWriter:
    """A writer to `WORKDIR/wandb`; a run that goes on is the same run there.

    `mode` is "offline" (`wandb sync WORKDIR/wandb/offline-*` uploads it later) or "online".
    """

    def __init__(self, workdir: Path, mode: str):
        self._wandb = import_wandb()
        identity = hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16]
        self._run = self._wandb.init(
            project=PROJECT,
            name=workdir.name,
            dir=str(workdir),
            id=identity,
            resume="allow",
            mode=mode,
            settings=self._wandb.Settings(console="off", silent=True),
        )

    def write(self, step: int, values: Values, timings: Values) -> None:
        """A history row with the step beside the numbers: W&B's own count only goes up."""
        self._run.log({"step": step, **named_scalars(values, timings)})

    def write_image(
        self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"], caption: str
    ) -> None:
        """The picture with its caption."""
        picture = self._wandb.Image(Image.fromarray(image), caption=caption)
        self._run.log({"step": step, name: picture})

    def write_video(
        self, step: int, name: str, frames: UInt8[np.ndarray, "F H W 3"], fps: float
    ) -> None:
        """The video as a GIF."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.gif"
            write_gif(path, frames, fps)
            self._run.log({"step": step, name: self._wandb.Video(str(path), format="gif")})

    def write_text(self, step: int, name: str, text: str) -> None:
        """The text among what W&B calls the run's config."""
        self._run.config.update({name: text}, allow_val_change=True)

    def flush(self) -> None:
        """Nothing: W&B's own process writes as it goes."""

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()
