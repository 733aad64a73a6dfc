"""Rematerialisation: what the backward pass of a block finds kept, by name."""

from collections.abc import Callable

import jax

# What the backward pass of a block finds kept; the rest of it is computed again.
REMAT: dict[str, Callable[..., bool] | None] = {
    "none": None,  # no remat: everything is kept
    "full": jax.checkpoint_policies.nothing_saveable,  # but the block's input
    "attention": jax.checkpoint_policies.save_only_these_names("attended", "attention_residuals"),
    "matrices": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def check_remat(name: str) -> None:
    """Raises ValueError if there is no such way."""
    if name not in REMAT:
        raise ValueError(f"unknown remat {name!r}; there are {', '.join(REMAT)}")
