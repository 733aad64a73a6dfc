"""The rooms of `python -m m2dit_jax.benchmark`."""
