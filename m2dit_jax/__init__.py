"""Mask²DiT in JAX: text to multi-scene video with a masked diffusion transformer."""

from importlib import import_module

from m2dit_jax.utils import stopping as _stopping

# Before a command's other imports, which take seconds, and `typing`, which takes its time too.
if _stopping.is_command():
    _stopping.listen()

TYPE_CHECKING = False
if TYPE_CHECKING:
    from m2dit_jax.diffusion.options import SamplingOptions as SamplingOptions
    from m2dit_jax.pipeline.load import load as load
    from m2dit_jax.pipeline.pipeline import Pipeline as Pipeline
    from m2dit_jax.pipeline.story import Story as Story
    from m2dit_jax.stories.storyboard import Scene as Scene
    from m2dit_jax.stories.storyboard import Storyboard as Storyboard

__version__ = "0.1.0"

# The public API: its names, and the modules that hold them. These load jax, which takes seconds,
# and so are imported when a name is first used (PEP 562).
_MODULES = {
    "load": "m2dit_jax.pipeline.load",
    "Pipeline": "m2dit_jax.pipeline.pipeline",
    "Story": "m2dit_jax.pipeline.story",
    "Storyboard": "m2dit_jax.stories.storyboard",
    "Scene": "m2dit_jax.stories.storyboard",
    "SamplingOptions": "m2dit_jax.diffusion.options",
}
__all__ = ["__version__", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(
            f"module 'm2dit_jax' has no attribute {name!r}; there are {', '.join(__all__)}"
        )
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
