"""The fields of `config.train`: optimizer and run."""

from dataclasses import dataclass

from m2dit_jax.config.bounds import (
    DTYPES,
    MAX_STEPS,
    MAX_TIMESTEPS,
)
from m2dit_jax.config.fields import FREE, OVERRIDE, setting
from m2dit_jax.config.lora import LoraConfig
from m2dit_jax.diffusion.guidance import GIVEN_CHOICES
from m2dit_jax.diffusion.loss import WEIGHTINGS
from m2dit_jax.models.family import EXPERTS


@dataclass(frozen=True)
class OptimizerConfig:
    """The part of `config.train` that optimizer and learning rate depend on."""

    steps: int = setting(
        "Optimizer steps of the run.", at_least=1, at_most=MAX_STEPS, resume=OVERRIDE
    )
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
        at_most=MAX_STEPS,
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
    expert: str = setting(
        "Of a model of two transformers (config.diffusion.boundary) the one that is trained, on "
        "its own timesteps alone: high_noise, that of transformer/, or low_noise, that of "
        "transformer_2/.",
        choices=("", *EXPERTS),
        sources=("latents",),
        absent="",
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
        at_most=MAX_TIMESTEPS,
        absent=0,
    )
    log_every: int = setting(
        "Steps between lines of metrics.", at_least=1, at_most=MAX_STEPS, resume=FREE
    )
    checkpoint_every: int = setting(
        "Steps between checkpoints; the last step always has one.",
        at_least=1,
        at_most=MAX_STEPS,
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
        at_most=MAX_STEPS,
        resume=FREE,
        absent=10,
    )
    keep_checkpoints: int = setting(
        "Checkpoints that are kept, the latest ones.", at_least=1, at_most=MAX_STEPS, resume=FREE
    )
    eval_every: int = setting(
        "Steps between quick evaluations and previews; 0: there are none.",
        at_least=0,
        at_most=MAX_STEPS,
        resume=FREE,
    )
    eval_stories: int = setting(
        "Held-out stories of a quick evaluation.", at_least=1, at_most=10**6, resume=FREE
    )

    validate_every: int = setting(
        "Steps between validations, the loss of held-out stories at fixed timesteps and noise, and "
        "before the end; 0: there are none.",
        at_least=0,
        at_most=MAX_STEPS,
        resume=FREE,
        absent=0,
    )
    validation_stories: int = setting(
        "Held-out stories of a validation.", at_least=1, at_most=10**6, resume=FREE, absent=16
    )
    preview_every: int = setting(
        "Steps between previews, videos of the same stories each time; 0: there are none.",
        at_least=0,
        at_most=MAX_STEPS,
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
        if self.expert and self.preview_every:
            problems.append(
                "config.train.preview_every must be 0 with config.train.expert: videos need both "
                f"transformers, got {self.preview_every}"
            )
        return problems
