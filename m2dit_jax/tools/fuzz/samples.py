"""Good inputs of every kind, as small as they can be, made here; and how to find their parts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

STORYBOARD, CONFIG, FLAGS = "story.yaml", "config.json", "flags.json"
TEXTS = (".yaml", ".json", ".jsonl", ".csv")
JSON_NAMES = ("metadata", "_METADATA", "_CHECKPOINT_METADATA", "_sharding")  # Orbax's own


def files_of(folder: Path) -> list[Path]:
    """All files below, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tree_of(path: Path, text: str) -> Any:
    """The tree that the text is, None if it is none."""
    import yaml

    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines()]
        if path.suffix == ".csv":
            return None
        return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except ValueError:
        return None


def make_storyboards(folder: Path) -> None:
    """A storyboard with every field, and one with a given clip."""
    full = """# a story
seed: 7
negative_prompt: blurry
global_prompt: "in the manner of an old woodcut"
frames: 17
height: 64
width: 96
fps: 8
steps: 5
sampler: ddim
guidance_scale: 6.0
dynamic_guidance: false
window: 3
new_scenes: 1
anchor: true
retries: 2
checks: [finite, cut]
scenes:
  - prompt: A fox wakes in the snow.
    frames: 9
    seed: 4
    cut: true
  - {prompt: 'The fox: crosses a river', guidance_scale: 2.5}
  - prompt: |
      It sleeps.
      狐狸
"""
    given = "scenes:\n- prompt: a\n  video: clip.mp4\n- prompt: b\n"
    for name, text in (("full", full), ("given", given)):
        (folder / name).mkdir(parents=True)
        (folder / name / STORYBOARD).write_text(text, encoding="utf-8")
    _write_video(folder / "given/clip.mp4", "mpeg4")


def make_manifests(folder: Path) -> None:
    """A manifest of each of the three formats."""
    story = {"name": "one", "scenes": [{"video": "a.mp4", "caption": "a", "start": 0, "end": 0.5}]}
    reference = [
        {"prefix": "one", "values": [{"url": "a.mp4", "caption": "a"}, {"url": "a.mp4"}]},
        {"prefix": "two", "values": [{"url": "a.mp4", "caption": "b"}]},
    ]
    reference[0]["values"][1]["caption"] = "c"  # pyright: ignore[reportArgumentType, reportIndexIssue]
    for name, text in {
        "manifest.csv": 'path,caption,start,end,note\na.mp4,a fox,0,0.5,x\na.mp4,"b, c",,,\n',
        "manifest.json": json.dumps(reference, indent=1),
        "manifest.jsonl": "".join(f"{json.dumps(story | {'name': n})}\n" for n in ("a", "b")),
    }.items():
        inside = folder / name.replace(".", "_")
        inside.mkdir(parents=True)
        (inside / name).write_text(text, encoding="utf-8")
        _write_video(inside / "a.mp4", "mpeg4")


def make_configs(folder: Path) -> None:
    """The values of shipped configs of two sources of data, and flags of every field."""
    from flax.traverse_util import flatten_dict

    for name, shipped in (("shapes", "base"), ("latents", "finetune_2b")):
        (folder / name).mkdir(parents=True)
        config = _shipped(shipped)
        (folder / name / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    values = flatten_dict(_shipped("base"), sep=".")
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    (folder / "flags").mkdir()
    (folder / "flags" / FLAGS).write_text(json.dumps(flags), encoding="utf-8")


def make_videos(folder: Path) -> None:
    """A short video in each of five containers."""
    for name, codec in {
        "clip.mp4": "libx264",
        "clip.mov": "mpeg4",
        "clip.mkv": "mpeg4",
        "clip.webm": "libvpx",
        "clip.avi": "mpeg4",
    }.items():
        _write_video(folder / name.replace(".", "_") / name, codec)


def _write_video(path: Path, codec: str) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(6):
            pixels = np.full((32, 48, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_model_folder(folder: Path) -> None:
    """A model folder of diffusers with the smallest networks; the VAE's config is there alone."""
    from m2dit_jax.models.families import DEFAULT
    from m2dit_jax.weights.lazy import Tensor
    from m2dit_jax.weights.networks import torch_parts
    from m2dit_jax.weights.safetensors_files import write_safetensors

    configs: dict[str, dict[str, Any]] = {
        "transformer": {
            "_class_name": "CogVideoXTransformer3DModel",
            **{"num_attention_heads": 1, "attention_head_dim": 16, "in_channels": 2},
            **{"out_channels": 2, "time_embed_dim": 4, "text_embed_dim": 6, "num_layers": 1},
            **{"patch_size": 2, "use_rotary_positional_embeddings": True},
        },
        "vae": {
            "_class_name": "AutoencoderKLCogVideoX",
            **{"block_out_channels": [4, 4, 8, 8], "latent_channels": 2},
            **{"layers_per_block": 1, "norm_num_groups": 2},
        },
        "text_encoder": {
            "architectures": ["T5EncoderModel"],
            **{"vocab_size": 11, "d_model": 6, "d_kv": 4, "d_ff": 8, "num_layers": 1},
            **{"num_heads": 2, "feed_forward_proj": "gated-gelu", "torch_dtype": "float32"},
        },
    }
    random, model = np.random.default_rng(0), folder / "model"
    for kind, config in configs.items():
        (model / kind).mkdir(parents=True)
        _write_json(model / kind / "config.json", config)
        if kind == "vae":
            continue
        network = DEFAULT.networks[kind]
        tensors = {}
        for name, part in torch_parts(network, config, network.abstract(config)).items():
            values = random.normal(size=part.shape).astype(np.float32)
            tensors[name] = Tensor(part.shape, values.dtype, lambda values=values: values)
        write_safetensors(model / kind, network.stem, tensors, 2**60)
    (model / "scheduler").mkdir()
    scheduler = {
        "_class_name": "CogVideoXDDIMScheduler",
        **{"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012},
        **{"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"},
        **{"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        **{"set_alpha_to_one": True, "snr_shift_scale": 1.0, "clip_sample": False},
    }
    _write_json(model / "scheduler/scheduler_config.json", scheduler)
    index: dict[str, Any] = {kind: ["diffusers", "X"] for kind in (*configs, "scheduler")}
    _write_json(model / "model_index.json", {"_class_name": "CogVideoXPipeline"} | index)


def make_checkpoint(folder: Path) -> None:
    """The run folder of a tiny model after no step: Orbax names its files by chance."""
    import jax
    from ml_collections import ConfigDict

    from m2dit_jax.config.recipe import build_recipe
    from m2dit_jax.config.schema import Config
    from m2dit_jax.training.checkpoints import open_manager, save
    from m2dit_jax.training.optimizer import make_optimizer
    from m2dit_jax.training.state import TrainState

    raw = ConfigDict(_shipped("base"))
    raw.data.size, raw.data.frames, raw.data.scenes = 8, 2, 2
    for name in ("d_model", "d_kv", "d_ff"):
        raw.text_encoder[name] = 8
    raw.model.update(patch_size=4, patch_size_t=2, layers=1, heads=1, head_dim=16, time_dim=16)
    raw.train.optimizer = "adamw"
    config = Config.from_dict(raw)
    optimizer = make_optimizer(config.train, config.trains_text_encoder)
    params = build_recipe(config).init_params(jax.random.key(0))
    manager = open_manager(folder / "run", 1)
    save(manager, TrainState.create(params, optimizer, config.train.ema_decay), config)
    manager.wait_until_finished()
    manager.close()


def _shipped(name: str) -> dict[str, Any]:
    """The values of a shipped config."""
    from m2dit_jax.train import read_flags

    arguments = read_flags([f"--config={name}"])
    assert arguments is not None  # help was not asked for
    return arguments.config.to_dict()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
