"""The config of a run as frozen dataclasses: every field, its sentence and its check.

`configs/base.py` has the values, and other configs change some of them; a file's config is read
once, by `Config.from_dict`. Nothing here has a default.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ml_collections import ConfigDict

from m2dit_jax.config.distillation import DistillConfig
from m2dit_jax.config.fields import FREE, OVERRIDE, range_problems, read_fields, setting
from m2dit_jax.config.lora import LoraConfig
from m2dit_jax.data.shapes import read_actor
from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.guidance import GIVEN_CHOICES
from m2dit_jax.diffusion.loss import WEIGHTINGS
from m2dit_jax.diffusion.noising import PREDICTIONS, SPACINGS
from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.models.attention.dispatch import CHOICES as ATTENTION
from m2dit_jax.models.coding import latent_frames
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.models.families import NAMES as FAMILY_NAMES
from m2dit_jax.models.masks import MASKS, check_global_text
from m2dit_jax.models.remat import REMAT
from m2dit_jax.utils.options import (
    MAX_FPS,
    MAX_FRAMES,
    MAX_SCALE,
    MAX_SEED,
    MAX_SIDE,
    MAX_WINDOW,
    MIN_FPS,
    problem_lines,
)

# Pixels per latent; the first frame has a latent of its own.
VAE_SIDE = DEFAULT.vae.config({}).spatial_compression
VAE_FRAMES = DEFAULT.vae.config({}).temporal_compression_ratio

# Bounds that no training comes near; they keep a slip of the keyboard from taking all memory.
_STEPS = 10**9
_LAYERS, _HEADS, _WIDTH = 1000, 1024, 262_144
_STORY = 2**31 - 1  # numbers in a story's tensor: those that int32 can count
_TIMESTEPS = 100_000

DRAWN = tuple(WORLDS)  # sources of stories that are drawn here
SOURCES = (*DRAWN, "pixels", "latents")
DTYPES = ("float32", "bfloat16")


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
        at_most=_WIDTH,
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
        "Width of the text embeddings.", at_least=1, at_most=_WIDTH, sources=("latents",)
    )


@dataclass(frozen=True)
class TextEncoderSettings:
    """The text encoder that is part of the model, a T5 v1.1; sizes are named as there."""

    d_model: int = setting("Width of the text embeddings.", at_least=1, at_most=_WIDTH)
    d_kv: int = setting("Width of an attention head.", at_least=1, at_most=_WIDTH)
    d_ff: int = setting("Width of the gated feed-forward layer.", at_least=1, at_most=_WIDTH)
    num_layers: int = setting("Number of layers.", at_least=1, at_most=_LAYERS)
    num_heads: int = setting("Number of attention heads.", at_least=1, at_most=_HEADS)
    trained: bool = setting("False leaves the random initialisation as it is.")


@dataclass(frozen=True)
class ModelConfig:
    """The diffusion transformer."""

    family: str = setting(
        "Family of models that it is of.",
        choices=FAMILY_NAMES,
        absent=DEFAULT.name,
    )
    patch_size: int = setting(
        "Pixels or latents on each side of a patch.", at_least=1, at_most=MAX_SIDE
    )
    patch_size_t: int = setting(
        "Frames or latent frames in a patch.", at_least=1, at_most=MAX_FRAMES
    )
    layers: int = setting("Transformer blocks.", at_least=1, at_most=_LAYERS)
    heads: int = setting(
        "Attention heads; the width of the model is heads x head_dim.", at_least=1, at_most=_HEADS
    )
    head_dim: int = setting(
        "Width of a head, a multiple of 16 if rotary.", at_least=16, at_most=4096
    )
    time_dim: int = setting(
        "Width of the time embedding; of Wan, sines and cosines of a timestep before that.",
        at_least=1,
        at_most=_WIDTH,
    )
    hidden: int = setting(
        "Features within the feed-forward layers; 0: four times the width. Only Wan has others.",
        at_least=0,
        at_most=_WIDTH,
        absent=0,
    )
    mask: str = setting(
        "Who sees whom: symmetric (the paper's), full, independent, first_frame and "
        "every_other_frame (of other scenes only these), opening_frame (of other scenes only the "
        "story's first frame), block_diagonal (so in the inner blocks, symmetric in the outer "
        "ones), or causal: as symmetric, but conditioning scenes do not see generated ones, so "
        "that extending a story computes them once.",
        choices=MASKS,
    )
    attention: str = setting(
        "Implementation: dense (the definition), grouped, by_head (CPU), chunked (bounded memory), "
        "splash (TPU), cudnn (NVIDIA, bfloat16), or auto: what suits device and size.",
        choices=ATTENTION,
        resume=FREE,
    )
    rotary: bool = setting("Rotary positions of the video tokens, running on through the scenes.")
    added_positions: bool = setting("Sines and cosines of a patch's place in its scene are added.")
    scene_positions: bool = setting(
        "Sines and cosines of a scene's number in its story are added to its video and its text, "
        "so that the full mask can tell whose text it sees.",
        absent=False,
    )
    base_grid: tuple[int, ...] = setting(
        "Patches (time, height, width) that positions are fitted to; (): none.",
        at_least=1,
        at_most=MAX_SIDE,
    )
    spatial_scale: float = setting(
        "Divides the rows and columns of added positions.", above=0, at_most=1e6
    )
    scan: bool = setting(
        "Blocks in a scan: all of them compile once, and on a CPU run half as fast.", resume=FREE
    )
    remat: str = setting(
        "What the backward pass keeps of a block, the rest being computed again: none (no remat, "
        "everything is kept), full (nothing is), attention (its outcome is), matrices (the linear "
        "layers' outputs are too).",
        choices=tuple(REMAT),
        resume=FREE,
    )

    def problems(self) -> list[str]:
        """The problems that the ranges of single fields do not show."""
        grid = self.base_grid
        if not grid or (len(grid) == 3 and min(grid) >= 1):
            return []
        return [
            "config.model.base_grid must be empty or three numbers above 0 (time, height, width), "
            f"got {grid}"
        ]


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule: CogVideoX's, or flow matching."""

    timesteps: int = setting("Timesteps of the forward process.", at_least=2, at_most=_TIMESTEPS)
    beta_start: float = setting(
        "Variance of the noise added at the first timestep.", above=0, at_most=1
    )
    beta_end: float = setting(
        "Variance of the noise added at the last timestep.", above=0, at_most=1
    )
    snr_shift: float = setting(
        "Divides the signal-to-noise ratio at every timestep.", above=0, at_most=1e6
    )
    prediction: str = setting(
        "What the transformer's output stands for: v, as in CogVideoX, or x0, the clean latents, "
        "which leaves less noise in flat pixels. The loss is that of v in both.",
        choices=PREDICTIONS,
        absent="v",
    )
    kind: str = setting(
        "How latents become noise: diffusion, by the betas, as in CogVideoX, or flow, on a "
        "straight line, as in Wan, where v is the noise less the clean latents.",
        choices=("diffusion", "flow"),
        absent="diffusion",
    )
    shift: float = setting(
        "With kind flow: the odds of noise of sampling's steps are multiplied by it.",
        above=0,
        at_most=1e4,
        absent=1.0,
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The part of `config.train` that optimizer and learning rate depend on."""

    steps: int = setting("Optimizer steps of the run.", at_least=1, at_most=_STEPS, resume=OVERRIDE)
    optimizer: str = setting(
        "AdamW for everything, or Muon for the blocks' matrices and AdamW elsewhere.",
        choices=("adamw", "muon"),
    )
    learning_rate: float = setting(
        "Learning rate after the warm-up.", at_least=0, at_most=1e3, resume=OVERRIDE
    )
    text_encoder_share: float = setting(
        "The learning rate of a text encoder that is trained too, over that of the rest.",
        at_least=0,
        at_most=1e3,
        resume=OVERRIDE,
        absent=1.0,
    )
    warmup_steps: int = setting(
        "Steps in which the learning rate rises from zero.",
        at_least=0,
        at_most=_STEPS,
        resume=OVERRIDE,
    )
    schedule: str = setting(
        "Learning rate after the warm-up: constant, or a cosine down to a twentieth.",
        choices=("cosine", "constant"),
        resume=OVERRIDE,
    )
    adam_b2: float = setting(
        "Decay of Adam's second moment (the Adam part of Muon keeps 0.999).", at_least=0, at_most=1
    )
    adam_eps: float = setting("Adam's epsilon.", above=0, at_most=1)
    # The second moment changes by a thousandth a step, which bfloat16 would round away.
    momentum_dtype: str = setting("Dtype of the optimizer's first moment.", choices=DTYPES)
    weight_decay: float = setting("Decoupled weight decay.", at_least=0, at_most=1e3)
    decayed: str = setting(
        "What decays: the matrices, or all weights, biases and norms included.",
        choices=("matrices", "all"),
    )
    clip_norm: float = setting("Global norm that gradients are clipped to.", above=0, at_most=1e9)


@dataclass(frozen=True)
class TrainConfig(OptimizerConfig):
    """The training run."""

    batch_size: int = setting(
        "Stories per optimizer step, over all devices.", at_least=1, at_most=10**6
    )
    accumulate: int = setting(
        "Parts in which a batch is computed, to save memory.",
        at_least=1,
        at_most=10**6,
        resume=FREE,
    )
    compute_dtype: str = setting(
        "Dtype of the computation; the weights are kept in float32.", choices=DTYPES
    )
    init_from: str = setting(
        "Where the first weights are from: a model folder (CogVideoX's, for latents), a training "
        "run, the folder of one of its steps, or a converted run. Of a run they are the averaged "
        "ones, where it kept some. Optimizer, schedule and steps begin anew.",
        resume=FREE,
    )
    ema_decay: float = setting(
        "Decay of the averaged weights, which sampling uses; 0: none are kept.",
        at_least=0,
        at_most=1,
    )
    given_probability: float = setting(
        "Share of stories that train scene extension.", at_least=0, at_most=1
    )
    given_scenes: str = setting(
        "Conditioning scenes of such a story: any true subset, or all_but_last.",
        choices=GIVEN_CHOICES,
    )
    image_probability: float = setting(
        "Share of batches whose stories have a picture before them, which is always given. In the "
        "worlds it shows the actors, which no prompt then describes; of encoded videos it is the "
        "first frame of a scene of the story, if possible of one that the sample lacks, with that "
        "scene's prompt.",
        at_least=0,
        at_most=1,
        absent=0.0,
    )
    caption_dropout: float = setting(
        "Share of stories without prompts, for guidance.", at_least=0, at_most=1
    )
    scene_caption_dropout: float = setting(
        "Share of single scenes without a prompt.", at_least=0, at_most=1
    )
    loss_weighting: str = setting(
        "Stories of a batch weigh the same (story, as in the paper's scripts, so that an extension "
        "counts as much as a whole story), or all generated scenes do (scene).",
        choices=tuple(WEIGHTINGS),
        absent="scene",
    )
    min_snr_gamma: float = setting(
        "Gamma of the min-SNR weights of timesteps (arXiv 2303.09556), 5 there; 0: none.",
        at_least=0,
        at_most=1e6,
        absent=0.0,
    )
    log_snr_share: float = setting(
        "Share of stories whose noise is drawn by its log-SNR, normally distributed; the others "
        "draw among all timesteps alike.",
        at_least=0,
        at_most=1,
        absent=0.0,
    )
    log_snr_mean: float = setting(
        "Mean of that distribution.", at_least=-20, at_most=20, absent=0.0
    )
    log_snr_std: float = setting(
        "Standard deviation of that distribution.", at_least=0.1, at_most=20, absent=2.0
    )
    timestep_shift: float = setting(
        "With config.diffusion.kind flow: the odds of noise of the timesteps that are drawn are "
        "multiplied by it. A logit-normal draw of mean m and deviation s is log_snr_share 1, "
        "log_snr_mean -2 m and log_snr_std 2 s.",
        above=0,
        at_most=1e4,
        absent=1.0,
    )
    stratified: bool = setting(
        "The stories of a batch are spread over the distribution of timesteps, one in each part.",
        absent=False,
    )
    given_noise: int = setting(
        "Timestep up to which given scenes get noise, one drawn for each; 0: they are clean.",
        at_least=0,
        at_most=_TIMESTEPS,
        absent=0,
    )
    log_every: int = setting(
        "Steps between lines of metrics.", at_least=1, at_most=_STEPS, resume=FREE
    )
    checkpoint_every: int = setting(
        "Steps between checkpoints; the last step always has one.",
        at_least=1,
        at_most=_STEPS,
        resume=FREE,
    )
    checkpoint_minutes: float = setting(
        "Minutes after which the next line of metrics comes with a checkpoint too; 0: only the "
        "number of steps counts.",
        at_least=0,
        at_most=1e6,
        resume=FREE,
        absent=0.0,
    )
    stop_after_skipped: int = setting(
        "Steps in a row without a finite loss and gradient, which are skipped, that stop the run.",
        at_least=1,
        at_most=_STEPS,
        resume=FREE,
        absent=10,
    )
    keep_checkpoints: int = setting(
        "Checkpoints that are kept, the latest ones.", at_least=1, at_most=_STEPS, resume=FREE
    )
    eval_every: int = setting(
        "Steps between quick evaluations and previews; 0: there are none.",
        at_least=0,
        at_most=_STEPS,
        resume=FREE,
    )
    eval_stories: int = setting(
        "Held-out stories of a quick evaluation.", at_least=1, at_most=10**6, resume=FREE
    )

    validate_every: int = setting(
        "Steps between validations, the loss of held-out stories at fixed timesteps and noise, and "
        "before the end; 0: there are none.",
        at_least=0,
        at_most=_STEPS,
        resume=FREE,
        absent=0,
    )
    validation_stories: int = setting(
        "Held-out stories of a validation.", at_least=1, at_most=10**6, resume=FREE, absent=16
    )
    preview_every: int = setting(
        "Steps between previews, videos of the same stories each time; 0: there are none.",
        at_least=0,
        at_most=_STEPS,
        resume=FREE,
        absent=0,
    )
    preview_storyboards: str = setting(
        "Storyboards to preview, files or names with commas between them, of which the prompts of "
        "the first scenes count; empty: the prompts of some held-out stories.",
        resume=FREE,
        absent="",
    )
    preview_model: str = setting(
        "Model folder whose VAE decodes previews, and whose text encoder reads the storyboards'; "
        "empty: that of init_from.",
        sources=("latents",),
        resume=FREE,
        absent="",
    )
    wandb: str = setting(
        "Weights & Biases beside TensorBoard (an extra): off, offline, for `wandb sync` later, or "
        "online.",
        choices=("off", "offline", "online"),
        resume=FREE,
        absent="off",
    )
    lora: LoraConfig = setting("Low-rank adapters, trained instead of all weights.")

    def problems(self) -> list[str]:
        """The problems that the ranges of single fields do not show."""
        problems = []
        if self.accumulate >= 1 and self.batch_size % self.accumulate:
            problems.append(
                "config.train.batch_size must be a multiple of config.train.accumulate "
                f"{self.accumulate}, got {self.batch_size}"
            )
        if self.warmup_steps >= self.steps:
            problems.append(
                f"config.train.warmup_steps must be less than config.train.steps {self.steps}, "
                f"got {self.warmup_steps}"
            )
        return problems


@dataclass(frozen=True)
class SampleConfig:
    """Defaults of sampling, which a storyboard can override."""

    steps: int = setting("Sampling steps.", at_least=1, at_most=_TIMESTEPS)
    guidance_scale: float = setting(
        "Scale of classifier-free guidance; 1: none.", at_least=0, at_most=MAX_SCALE
    )
    fps: float = setting("Frames per second of the videos.", at_least=MIN_FPS, at_most=MAX_FPS)
    sampler: str = setting("Sampler that takes the steps.", choices=SAMPLERS, absent="ddim")
    spacing: str = setting(
        "Which timesteps the steps take; log_snr is equal distances in the logarithm of the "
        "signal-to-noise ratio.",
        choices=SPACINGS,
        absent="trailing",
    )
    guidance_start: float = setting(
        "Share of the steps that come before guidance begins.", at_least=0, at_most=1, absent=0.0
    )
    guidance_end: float = setting(
        "Share of the steps after which guidance ends.", at_least=0, at_most=1, absent=1.0
    )
    guidance_rescale: float = setting(
        "How far the spread of guided predictions is brought back to that without guidance.",
        at_least=0,
        at_most=1,
        absent=0.0,
    )
    clip_x0: float = setting(
        "Largest absolute value of predicted clean latents; 0: any.",
        at_least=0,
        at_most=MAX_SCALE,
        absent=0.0,
    )


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one may be -1, all the rest.

    Sizes are checked where the number of devices is known (`parallel.mesh.make_mesh`).
    """

    data: int = setting(
        "Shards of the batch; every device along this axis has all weights.",
        at_least=-1,
        at_most=10**6,
    )
    fsdp: int = setting(
        "Shards of the batch, and of the weights, gradients and optimizer state.",
        at_least=-1,
        at_most=10**6,
    )
    context: int = setting(
        "Shards of a story's tokens, and of the weights as with fsdp.", at_least=-1, at_most=10**6
    )


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on. Raises ValueError with every value that cannot be."""

    seed: int = setting(
        "Seed of the parameters, the stories and every random draw.", at_least=0, at_most=MAX_SEED
    )
    data: DataConfig = setting("The stories that a model learns.")
    text_encoder: TextEncoderSettings = setting(
        "The model's own text encoder.", sources=(*DRAWN, "pixels")
    )
    model: ModelConfig = setting("The diffusion transformer.")
    diffusion: DiffusionConfig = setting("The noise schedule.")
    train: TrainConfig = setting("The training run.")
    sample: SampleConfig = setting("Defaults of sampling.", resume=FREE)
    distill: DistillConfig = setting("Distillation of a trained model into few sampling steps.")
    mesh: MeshConfig = setting("The device mesh.", resume=FREE)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | ConfigDict, source: object = "") -> "Config":
        """The config that a config file's ConfigDict or a checkpoint's nested dicts describe.

        Raises ValueError naming every field that is missing, unknown or mistyped, or else every
        one that cannot be; after the `source`, the file or folder that it was read from.
        """
        plain: Mapping[str, Any] = values.to_dict() if isinstance(values, ConfigDict) else values
        try:
            return read_fields(cls, plain)
        except ValueError as error:
            raise ValueError(f"{source}: {error}" if str(source) else str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values, as checkpoints hold them."""
        return asdict(self)

    def __post_init__(self) -> None:
        problems = [
            *range_problems(self, self.data.source),
            *self.model.problems(),
            *self.train.problems(),
            *self._timestep_problems(),
            *self.distill.problems(self.train, self.sample, self.diffusion.timesteps),
            *self.train.lora.problems(self.train, self.distill),
            *self._held_out_problems(),
            *self._source_problems(),
        ] or self._story_problems()
        if problems:
            raise ValueError(problem_lines(problems))

    @property
    def trains_text_encoder(self) -> bool:
        """False if the model has a text encoder and it stays as it is."""
        if self.data.source == "latents":
            return True
        return self.text_encoder.trained and not self.train.lora.rank

    @property
    def first_weights(self) -> str:
        """Path of the first weights: init_from, else the teacher; empty for fresh weights."""
        return self.train.init_from or self.distill.teacher

    @property
    def first_weights_field(self) -> str:
        """The field that says so."""
        by_teacher = self.distill.teacher and not self.train.init_from
        return "config.distill.teacher" if by_teacher else "config.train.init_from"

    def _timestep_problems(self) -> list[str]:
        problems, timesteps = [], self.diffusion.timesteps
        if self.sample.steps > timesteps:
            problems.append(
                f"config.sample.steps must be at most config.diffusion.timesteps {timesteps}, "
                f"got {self.sample.steps}"
            )
        if self.train.given_noise >= timesteps:
            problems.append(
                f"config.train.given_noise must be less than config.diffusion.timesteps {timesteps}"
                f", got {self.train.given_noise}"
            )
        return problems + self._kind_problems()

    def _kind_problems(self) -> list[str]:
        """Choices that belong to the other kind of noise."""
        diffusion, train = self.diffusion, self.train
        if diffusion.kind == "diffusion":
            shifts = {
                "diffusion.shift": diffusion.shift,
                "train.timestep_shift": train.timestep_shift,
            }
            return [
                f"config.{name} must be 1 with config.diffusion.kind 'diffusion', got {shift:g}"
                for name, shift in shifts.items()
                if shift != 1
            ]
        fitting = {
            "diffusion.prediction": (diffusion.prediction, ("v",)),
            "sample.spacing": (self.sample.spacing, FlowSchedule.spacings),
            "distill.teacher": (self.distill.teacher, ("",)),
        }
        return [
            f"config.{name} must be {' or '.join(map(repr, needed))} with config.diffusion.kind "
            f"'flow', got {found!r}"
            for name, (found, needed) in fitting.items()
            if found not in needed
        ]

    def _held_out_problems(self) -> list[str]:
        data, train = self.data, self.train
        if data.source in WORLDS:  # whose held-out stories are drawn
            return []
        if data.held_out_share and data.held_out_paths:
            return ["config.data.held_out_share and held_out_paths: needs one or the other"]
        if data.held_out_share or data.held_out_paths:
            return []
        asking = [
            name
            for name, asked in (
                ("validate_every", train.validate_every),
                ("preview_every without preview_storyboards", train.preview_every),
            )
            if asked and not (name.startswith("preview") and train.preview_storyboards)
        ]
        return [
            f"config.train.{name} needs held-out stories: config.data.held_out_share, such as 0.05,"
            " or config.data.held_out_paths"
            for name in asking
        ]

    def _source_problems(self) -> list[str]:
        """The problems with the source of the data."""
        return {
            **dict.fromkeys(DRAWN, self._drawn_problems),
            "pixels": self._pixels_problems,
            "latents": self._latents_problems,
        }.get(self.data.source, list)()

    def _story_problems(self) -> list[str]:
        """Says if a story is more than one tensor can be, or its batch more than any machine's."""
        data, side, channels = self.data, self.data.size, 3
        height, width = (side, side) if data.source in WORLDS else (data.height, data.width)
        frames = data.frames
        if data.source == "latents":
            frames, channels = latent_frames(frames, VAE_FRAMES), data.channels
            height, width = height // data.latent_side, width // data.latent_side
        numbers = data.scenes * frames * height * width * channels
        if numbers <= _STORY:
            return []
        sizes = "size" if data.source in WORLDS else "height and width"
        return [
            f"config.data.scenes, frames, {sizes} make stories of {numbers:.3g} numbers, "
            f"needs at most {_STORY:.3g}"
        ]

    def _drawn_problems(self) -> list[str]:
        problems = self._pixel_model_problems() + self._indivisible(("size",), 1)
        data, patch = self.data, max(self.model.patch_size_t, 1)
        world = WORLDS[data.source]
        for name, least in (("size", world.least_size), ("frames", world.least_frames)):
            if getattr(data, name) < least:
                problems.append(
                    f"config.data.{name} must be at least {least} with {self._source}, "
                    f"got {getattr(data, name)}"
                )
        if data.actor:
            try:
                read_actor(data.actor)
            except ValueError as error:
                problems.append(f"config.data.actor: {error}")
        if world.has_global_prompt:
            try:
                check_global_text(self.model.mask)
            except ValueError as error:
                problems.append(f"config.model.mask: {self._source} has global prompts: {error}")
            short = data.short_frames
            if short and (short % patch or not world.least_frames <= short < data.frames):
                problems.append(
                    "config.data.short_frames must be 0 or a multiple of config.model.patch_size_t "
                    f"{patch} from {world.least_frames} on and less than config.data.frames "
                    f"{data.frames}, got {short}"
                )
            if short and data.stories % self.train.batch_size:
                problems.append(
                    "config.data.stories must be a multiple of config.train.batch_size "
                    f"{self.train.batch_size} with short_frames, got {data.stories}"
                )
        return problems

    def _pixels_problems(self) -> list[str]:
        return self._pixel_model_problems() + self._indivisible(("height", "width"), 1)

    def _pixel_model_problems(self) -> list[str]:
        problems = []
        patch = max(self.model.patch_size_t, 1)  # a patch of no size has a message of its own
        if self.data.frames % patch:
            problems.append(
                f"config.data.frames must be a multiple of config.model.patch_size_t {patch}, "
                f"got {self.data.frames}"
            )
        return problems

    def _latents_problems(self) -> list[str]:
        problems = []
        if self.train.eval_every:
            problems.append(
                f"config.train.eval_every must be 0 with {self._source}: only stories of pixels "
                f"can be looked at on the way; got {self.train.eval_every}"
            )
        return problems + self._indivisible(("height", "width"), self.data.latent_side)

    def _indivisible(self, names: tuple[str, ...], side: int) -> list[str]:
        """The sizes of the data that do not divide into patches, `side` pixels to a latent."""
        patch = max(self.model.patch_size, 1)
        unit = f"{side} x " if side > 1 else ""
        where = "" if self.data.source in WORLDS else f" with {self._source}"
        return [
            f"config.data.{name} must be a multiple of {unit}config.model.patch_size "
            f"{patch}{where}, got {getattr(self.data, name)}"
            for name in names
            if getattr(self.data, name) % (side * patch)
        ]

    @property
    def _source(self) -> str:
        return f"config.data.source {self.data.source!r}"
