"""Golden files of a training step: loss, gradients and parameters after AdamW."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import load_file

from m2dit_jax.config.train_fields import OptimizerConfig
from m2dit_jax.diffusion.loss import scene_weights, weighted_error
from m2dit_jax.models.family import NetworkSpec
from m2dit_jax.tools.parity.golden import EXACT, Case, GoldenFile, failure
from m2dit_jax.tools.parity.layout import from_scenes, text_to_scenes, to_scenes
from m2dit_jax.tools.parity.models import ReferenceModels
from m2dit_jax.tools.parity.networks import TRANSFORMER_LIMIT, check_positions
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.weights.mapping import flatten
from m2dit_jax.weights.networks import torch_parts

RELATIVE_LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4  # of a tensor's largest gradient
GRADIENT_FLOOR = 1e-7
NOISING_LIMIT = 2e-6
PARAMS_LIMIT = 2e-5
# The optimizer of the golden files.
LEARNING_RATE = 1e-3
OPTIMIZER = OptimizerConfig(
    steps=1,
    optimizer="adamw",
    learning_rate=LEARNING_RATE,
    text_encoder_share=1.0,
    warmup_steps=0,
    schedule="constant",
    adam_b2=0.999,
    adam_eps=1e-10,
    momentum_dtype="float32",
    weight_decay=3e-2,
    decayed="all",
    clip_norm=0.05,
)
GRADIENTS, PARAMS = "_grads.safetensors", "_params_after_adamw.safetensors"


def check_training(root: Path, file: GoldenFile, models: ReferenceModels) -> None:
    """One step: what is drawn is given, the rest is computed."""
    stem = Path(file.name).stem
    pipeline = models.pipeline_of(stem)
    transformer, schedule = pipeline.transformer, pipeline.folder.schedule
    scenes = file.number("num_scenes")
    latents, noise = (to_scenes(file.input(array), scenes) for array in ("latents", "noise"))
    file.expect("latent_frames_per_scene", latents.shape[2], EXACT)
    check_positions(file, transformer.config, latents.shape)
    text_embeds = text_to_scenes(file.input("prompt_embeds"), scenes)
    drawn = file.timesteps("timesteps", schedule)[:, None]

    extends = file.input("target").shape != file.input("latents").shape
    given = jnp.broadcast_to(extends & (jnp.arange(scenes) < scenes - 1), (len(drawn), scenes))
    timesteps = jnp.where(given, 0, drawn)
    noisy = schedule.add_noise(latents, noise, jnp.broadcast_to(drawn, given.shape))
    noisy = jnp.where(given[:, :, None, None, None, None], latents, noisy)
    v_target = schedule.v_target(latents, noise, timesteps)
    counted = slice(scenes - 1, None) if extends else slice(None)
    file.expect("noisy_latents", from_scenes(noisy), NOISING_LIMIT)
    file.expect("target", from_scenes(v_target[:, counted]), NOISING_LIMIT)

    graphdef, params = transformer.network
    batch = noisy, text_embeds, timesteps, v_target, scene_weights(given)
    (loss, output), gradients = loss_output_and_gradients(graphdef, params, batch)
    file.expect("model_output", from_scenes(output), TRANSFORMER_LIMIT)
    file.expect("loss", loss, RELATIVE_LIMIT, relative=True)
    norm = optax.tree.norm(gradients)
    file.expect("global_grad_norm", norm, RELATIVE_LIMIT, relative=True)

    expected = load_file(root / f"training/{stem}{GRADIENTS}")
    file.cases.append(
        compare_tensors(
            f"training/{stem}{GRADIENTS}",
            torch_arrays(transformer.family.transformer, transformer.json, gradients),
            expected,
            gradient_limits(expected),
        )
    )
    if (root / f"training/{stem}{PARAMS}").exists():
        file.cases.append(
            compare_tensors(
                f"training/{stem}{PARAMS}",
                torch_arrays(
                    transformer.family.transformer,
                    transformer.json,
                    _after_one_step(params, gradients),
                ),
                load_file(root / f"training/{stem}{PARAMS}"),
                # The first step goes by the sign of the gradient, which round-off decides where
                # the gradient is all but zero.
                {
                    name: np.where(np.abs(x) < GRADIENT_FLOOR, 2 * LEARNING_RATE, PARAMS_LIMIT)
                    for name, x in expected.items()
                },
            )
        )


def gradient_limits(expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tolerance of each element of the gradients."""
    return {
        name: np.full(x.shape, GRADIENT_LIMIT * np.abs(x).max() + GRADIENT_FLOOR)
        for name, x in expected.items()
    }


# Compiled once for all files of the same shapes.
@partial(jax.jit, static_argnums=0)
def loss_output_and_gradients(
    graphdef: nnx.GraphDef, params: Any, batch: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """Loss and output, and the gradients, of noisy latents, text, timesteps, target, weights."""
    noisy, text_embeds, timesteps, v_target, weights = batch

    def loss_and_output(params: Any) -> tuple[jax.Array, jax.Array]:
        v_pred = nnx.merge(graphdef, params)(noisy, text_embeds, timesteps)
        return weighted_error(v_pred, v_target, weights), v_pred

    return jax.value_and_grad(loss_and_output, has_aux=True)(params)


@jax.jit
def _after_one_step(params: Any, gradients: Any) -> Any:
    optimizer = make_optimizer(OPTIMIZER, train_text_encoder=True)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def torch_arrays(
    network: NetworkSpec, config: dict[str, Any], params: Any
) -> dict[str, np.ndarray]:
    """Our parameters, or their gradients, by PyTorch's names and in its shapes."""
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    return {
        name: part.change.to_torch(
            flat[part.leaf] if part.layer is None else flat[part.leaf][part.layer], part.shape
        )
        for name, part in torch_parts(network, config, params).items()
    }


def compare_tensors(
    case: str,
    ours: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    limits: dict[str, np.ndarray],
) -> Case:
    """One case for all tensors of a file: the element that comes nearest to its limit."""
    wrong = [
        name
        for name in ours.keys() | expected.keys()
        if name not in ours or name not in expected or ours[name].shape != expected[name].shape
    ]
    if wrong:
        return failure(case, f"missing, unexpected or of another shape: {', '.join(sorted(wrong))}")
    worst = Case(case, 0.0, PARAMS_LIMIT, passed=True)
    share = -1.0
    for name, x in expected.items():
        error = np.abs(ours[name].astype(np.float64) - x)
        shares = np.nan_to_num(error / limits[name], nan=np.inf)
        place = np.unravel_index(np.argmax(shares), shares.shape)
        if shares[place] > share:
            share = shares[place]
            passed = bool(error[place] <= limits[name][place])
            worst = Case(case, float(error[place]), float(limits[name][place]), passed, name)
    return worst
