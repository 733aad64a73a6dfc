"""AdamW, or Muon for the matrices of the transformer blocks, with warm-up, decay and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from m2dit_jax.config.train_fields import OptimizerConfig

Params = Any
FINAL_SHARE = 0.05  # of the learning rate, at the last step


def learning_rate_schedule(train: OptimizerConfig) -> optax.Schedule:
    """The learning rate as a function of the finished steps: warm-up, then constant or cosine."""
    if train.schedule == "constant":
        warm_up = optax.linear_schedule(0.0, train.learning_rate, max(train.warmup_steps, 1))
        constant = optax.constant_schedule(train.learning_rate)
        return optax.join_schedules([warm_up, constant], [train.warmup_steps])
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=train.learning_rate,
        warmup_steps=train.warmup_steps,
        decay_steps=train.steps,
        end_value=FINAL_SHARE * train.learning_rate,
    )


def make_optimizer(
    train: OptimizerConfig, train_text_encoder: bool
) -> optax.GradientTransformation:
    """The optimizer for a StoryModel's parameters; a frozen text encoder gets no updates."""
    if train.optimizer == "muon":
        # consistent_rms gives Muon's updates the size of Adam's, so one learning rate fits both
        # (arXiv 2502.16982, section 2.2). Its own learning rate of -1 leaves the direction, uphill
        # as Adam's; its own weight decay would leave out the matrices that are Adam's.
        direction = muon(
            -1.0,
            muon_weight_dimension_numbers=_muon_dimensions,
            consistent_rms=0.2,
            mu_dtype=train.momentum_dtype,
        )
    else:
        direction = optax.scale_by_adam(
            b2=train.adam_b2, eps=train.adam_eps, mu_dtype=train.momentum_dtype
        )
    optimizer = optax.chain(
        clip_by_known_norm(train.clip_norm),
        direction,
        optax.add_decayed_weights(
            train.weight_decay, _matrices if train.decayed == "matrices" else None
        ),
        optax.scale_by_learning_rate(learning_rate_schedule(train)),
    )
    if train_text_encoder:
        return _with_text_encoder_share(optimizer, train.text_encoder_share)
    return optax.multi_transform(
        {"trained": optimizer, "frozen": optax.set_to_zero()},
        # A label for a whole part stands for everything in it.
        lambda params: {part: "frozen" if part == "text_encoder" else "trained" for part in params},
    )


def _with_text_encoder_share(
    optimizer: optax.GradientTransformationExtraArgs, share: float
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, of whose updates the text encoder gets a share; its state as before."""
    if share == 1:
        return optimizer

    def update(
        updates: Params, state: Any, params: Params = None, **extra: Any
    ) -> tuple[Params, Any]:
        updates, state = optimizer.update(updates, state, params, **extra)
        return {
            part: jax.tree.map(lambda u: share * u, of_part) if part == "text_encoder" else of_part
            for part, of_part in updates.items()
        }, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def clip_by_known_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Clips to a global norm, which `update` may be handed as `grad_norm`, to compute it once."""

    def update(
        updates: Params, state: Any, params: Params = None, **extra: Any
    ) -> tuple[Params, Any]:
        grad_norm = extra.get("grad_norm")
        if grad_norm is None:
            grad_norm = optax.tree.norm(updates)
        # Divided and multiplied as optax.clip_by_global_norm does it.
        clipped = jax.tree.map(
            lambda g: jnp.where(grad_norm < max_norm, g, g / grad_norm.astype(g.dtype) * max_norm),
            updates,
        )
        return clipped, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _matrices(params: Params) -> Params:
    """True for weights, False for biases, norms and embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _muon_dimensions(params: Params) -> Params:
    """The blocks' matrices, stacked as [layer, in, out]; modulation, from 0, is left to Adam."""

    def dimensions(path, _):
        keys = [entry.key for entry in path]
        is_block_matrix = keys[:2] == ["transformer", "blocks"] and keys[-1] == "kernel"
        if is_block_matrix and not keys[2].startswith("modulation"):
            return MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return None

    return jax.tree_util.tree_map_with_path(dimensions, params)
