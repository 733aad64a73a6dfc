"""Keeping what was compiled, so that the machine itself need not wait for the compiler."""

import warnings
from pathlib import Path

import jax


def keep_executables(folder: Path) -> None:
    """Writes all executables to JAX's compilation cache in `folder`.

    A machine finds them there with JAX_COMPILATION_CACHE_DIR, if its versions of jax and compiler
    are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # An absent machine cannot load what it wrote: the same program is compiled once more.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
