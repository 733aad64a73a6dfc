"""The fields of `config.data`: the stories that a model learns."""

from dataclasses import dataclass

from m2dit_jax.config.bounds import (
    DRAWN,
    MAX_WIDTH,
    SOURCES,
    VAE_SIDE,
)
from m2dit_jax.config.fields import FREE, setting
from m2dit_jax.utils.options import (
    MAX_FRAMES,
    MAX_SIDE,
    MAX_WINDOW,
)


@dataclass(frozen=True)
class DataConfig:
    """The stories that a model learns: where they are from, and their sizes."""

    source: str = setting(
        "A world whose stories are drawn here (shapes: one shape on plain grounds; storyworld: "
        "little films of actors in places), or what the encode command wrote: pixels, or latents "
        "of a VAE with the prompts' embeddings.",
        choices=SOURCES,
    )
    manifest: str = setting(
        "File with captions and paths of videos, read by `encode --config`.", resume=FREE
    )
    root: str = setting("Folder that the manifest's paths are relative to.", resume=FREE)
    codec: str = setting("Encoding: pixels, or the folder of the model that encodes.", resume=FREE)
    paths: str = setting(
        "Folders of encoded videos, with commas between them.",
        sources=("pixels", "latents"),
        resume=FREE,
    )
    weights: tuple[float, ...] = setting(
        "How often a batch is from each folder; (): as often as it has samples.",
        sources=("pixels", "latents"),
        at_least=0,
        at_most=1e9,
    )
    held_out_share: float = setting(
        "Share of each folder's stories that are validated and not trained on.",
        at_least=0,
        at_most=0.5,
        sources=("pixels", "latents"),
        absent=0.0,
    )
    held_out_paths: str = setting(
        "Folders of encoded videos that are validated, with commas between them.",
        sources=("pixels", "latents"),
        resume=FREE,
        absent="",
    )
    fps: float = setting(
        "Encoding: frames per second at which the frames of all videos are counted, and which "
        "datasets must have; 0: each video's own.",
        at_least=0,
        at_most=1000,
        sources=("pixels", "latents"),
        resume=FREE,
        absent=0.0,
    )
    scenes: int = setting("Scenes in a story.", at_least=1, at_most=MAX_WINDOW)
    frames: int = setting("Frames in a scene.", at_least=2, at_most=MAX_FRAMES)
    text_length: int = setting(
        "Tokens per prompt with its end (of pixels: bytes); shorter prompts are padded.",
        at_least=2,
        at_most=MAX_WIDTH,
    )
    size: int = setting("Height and width in pixels.", at_least=8, at_most=MAX_SIDE, sources=DRAWN)
    actor: str = setting(
        "The actor of all stories, such as 'white circle': what adapters are to learn. Of the "
        "colour of a ground, it is in no other story; '': any actor.",
        sources=("shapes",),
        absent="",
    )
    actor_share: float = setting(
        "Share of the stories that are of that actor. Between them are stories of any actor, so "
        "that adapters leave those as they are.",
        above=0,
        at_most=1,
        sources=("shapes",),
        absent=1.0,
    )
    stories: int = setting(
        "Stories to learn from (of the actor, if there is one), which come round again; 0: ten "
        "million.",
        at_least=0,
        at_most=10**7,
        sources=DRAWN,
        absent=0,
    )
    short_frames: int = setting(
        "Frames of a story's shorter scenes, in a world that has such; 0: all have one length.",
        at_least=0,
        at_most=MAX_FRAMES,
        sources=("storyworld",),
        absent=0,
    )
    height: int = setting(
        "Height in pixels.", at_least=1, at_most=MAX_SIDE, sources=("pixels", "latents")
    )
    width: int = setting(
        "Width in pixels.", at_least=1, at_most=MAX_SIDE, sources=("pixels", "latents")
    )
    channels: int = setting(
        "Channels of the latents.", at_least=1, at_most=4096, sources=("latents",)
    )
    latent_side: int = setting(
        "Rows and columns of pixels in a latent: 8, and 16 of Wan 2.2 TI2V.",
        at_least=1,
        at_most=64,
        sources=("latents",),
        absent=VAE_SIDE,
    )
    text_dim: int = setting(
        "Width of the text embeddings.", at_least=1, at_most=MAX_WIDTH, sources=("latents",)
    )
