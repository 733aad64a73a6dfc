"""The embedded default: a small Mask²DiT on procedural storyboards.

Run: python -m m2dit_jax.train --config=configs/base.py --workdir=runs/base
Hardware: 2 cores of an AMD EPYC, no accelerator. Time: 7 minutes with compilation, the quick
evaluations and some other work beside it (6.2 steps/s when alone, 7.2 with huge pages, for which
launch/local.sh asks).
Scores on 256 held-out stories (python -m m2dit_jax.evaluate; 2026-11-28), generation and extension:
all attributes, "it" and same actor 100 and 100 per cent, leakage 0 and 0; psnr 28.4 and 28.3 dB,
background_rms 4.3 and 4.4, actor_rms 5.7 and 5.6 of 255. docs/recipe.md says what brings how much.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every field with its default; docs/config.md says what they mean."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.source = "shapes"
    config.data.manifest = ""
    config.data.root = ""
    config.data.codec = ""
    config.data.paths = ""
    config.data.weights = ()
    config.data.held_out_share = 0.0
    config.data.held_out_paths = ""
    config.data.fps = 0.0
    config.data.scenes = 3
    config.data.frames = 3
    config.data.text_length = 8
    config.data.size = 16
    config.data.actor = ""
    config.data.actor_share = 1.0
    config.data.stories = 0
    config.data.short_frames = 0
    config.data.height = 480
    config.data.width = 720
    config.data.channels = 16
    config.data.latent_side = 8
    config.data.text_dim = 4096

    config.text_encoder = ConfigDict()
    config.text_encoder.d_model = 64
    config.text_encoder.d_kv = 32
    config.text_encoder.d_ff = 128
    config.text_encoder.num_layers = 1
    config.text_encoder.num_heads = 2
    # False: the random initialisation stays as it is; then shape is 97.7 and "it" 94.2 per cent,
    # against 99.6 and 97.9 trained jointly (generation, one seed, 2000 steps, prediction v).
    config.text_encoder.trained = True

    config.model = ConfigDict()
    config.model.family = "cogvideox"
    config.model.patch_size = 4
    config.model.patch_size_t = 3
    config.model.layers = 3
    config.model.heads = 3
    config.model.head_dim = 64
    config.model.time_dim = 64
    config.model.hidden = 0
    config.model.mask = "symmetric"
    config.model.attention = "auto"
    config.model.rotary = True
    config.model.added_positions = True
    config.model.scene_positions = False
    config.model.base_grid = ()
    config.model.spatial_scale = 1.0
    config.model.scan = False
    config.model.remat = "none"

    config.diffusion = ConfigDict()
    config.diffusion.timesteps = 1000
    config.diffusion.beta_start = 0.00085
    config.diffusion.beta_end = 0.012
    config.diffusion.snr_shift = 24.0
    config.diffusion.prediction = "x0"
    config.diffusion.kind = "diffusion"
    config.diffusion.shift = 1.0
    config.diffusion.boundary = 0.0

    config.train = ConfigDict()
    config.train.steps = 2000
    config.train.batch_size = 16
    config.train.accumulate = 1
    config.train.compute_dtype = "float32"
    config.train.init_from = ""
    config.train.expert = ""
    config.train.optimizer = "muon"
    config.train.learning_rate = 6e-3
    # 1 takes twice the steps: the text encoder's matrices are Adam's, which this rate shakes.
    config.train.text_encoder_share = 0.1
    config.train.warmup_steps = 100
    config.train.schedule = "cosine"
    config.train.adam_b2 = 0.99
    config.train.adam_eps = 1e-8
    config.train.momentum_dtype = "float32"
    config.train.weight_decay = 0.0
    config.train.decayed = "matrices"
    config.train.clip_norm = 1.0
    config.train.ema_decay = 0.999
    config.train.given_probability = 0.3
    config.train.given_scenes = "any"
    config.train.image_probability = 0.0
    config.train.caption_dropout = 0.1
    config.train.scene_caption_dropout = 0.0
    config.train.loss_weighting = "scene"
    config.train.min_snr_gamma = 0.0
    config.train.log_snr_share = 0.0
    config.train.log_snr_mean = 0.0
    config.train.log_snr_std = 2.0
    config.train.timestep_shift = 1.0
    config.train.stratified = False
    config.train.given_noise = 0
    config.train.log_every = 50
    config.train.checkpoint_every = 500
    config.train.checkpoint_minutes = 0.0
    config.train.stop_after_skipped = 10
    config.train.keep_checkpoints = 2
    config.train.eval_every = 500
    config.train.eval_stories = 32
    config.train.validate_every = 0
    config.train.validation_stories = 16
    config.train.preview_every = 0
    config.train.preview_storyboards = ""
    config.train.preview_model = ""
    config.train.wandb = "off"

    config.train.lora = ConfigDict()
    config.train.lora.rank = 0
    config.train.lora.alpha = 0.0
    config.train.lora.targets = ("to_q", "to_k", "to_v", "to_out")
    config.train.lora.dropout = 0.0
    config.train.lora.base_dtype = "float32"

    config.sample = ConfigDict()
    config.sample.steps = 20
    config.sample.guidance_scale = 2.0
    config.sample.fps = 4.0
    config.sample.sampler = "ddim"
    config.sample.spacing = "trailing"
    config.sample.guidance_start = 0.0
    config.sample.guidance_end = 0.5
    config.sample.guidance_rescale = 0.0
    config.sample.clip_x0 = 0.0

    config.distill = ConfigDict()
    config.distill.teacher = ""
    config.distill.steps = 4
    config.distill.spacing = "trailing"
    config.distill.teacher_steps = 20
    config.distill.guidance_scale = 1.0
    config.distill.guidance_end = 1.0
    config.distill.clip_x0 = 0.0

    config.mesh = ConfigDict()
    config.mesh.data = -1
    config.mesh.fsdp = 1
    config.mesh.context = 1
    return config.lock()
