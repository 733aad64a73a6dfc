"""JAX's compilation cache, on by default: what was compiled once is read from a folder.

A program is found by a hash of itself, the compiler's version and the kind of device. CPUs are all
of one kind to JAX though they differ, and what was compiled for one may crash another: hence a
folder within the folder for each.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

from m2dit_jax.utils.compat import write_compiled_whole
from m2dit_jax.utils.machine import user_caches
from m2dit_jax.utils.remote.bucket import is_remote

COMPILE_CACHE_HELP = (
    "folder that keeps what was compiled, for the next start; empty: none (default: "
    "JAX_COMPILATION_CACHE_DIR, or m2dit_jax/compiled in the user's folder of caches)"
)
_ENVIRONMENT = "JAX_COMPILATION_CACHE_DIR"
_SECONDS = 0.5  # what compiles faster is not kept: it would be thousands of files


def keep_compiled(folder: str | None) -> Path | None:
    """Has JAX keep what it compiles, and returns where; None if it keeps nothing.

    `folder` None is the default: JAX_COMPILATION_CACHE_DIR if that is set, else `default_folder()`;
    empty turns it off. Call it before anything is compiled. Raises ValueError for a given folder
    that cannot be written to; the default is then done without, after a line on stderr.
    """
    import jax

    if folder == "":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    write_compiled_whole()
    if folder is None and _ENVIRONMENT in os.environ:
        return Path(os.environ[_ENVIRONMENT])
    place = (default_folder() if folder is None else _open(folder)) / _cpu_name()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        problem = f"--compile_cache: {place} cannot be written to ({error.strerror})"
        if folder is not None:
            raise ValueError(f"{problem}; needs a folder, or nothing to do without") from error
        print(f"{problem}; nothing that is compiled is kept", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", str(place.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
    return place


def _open(folder: str) -> Path:
    """The local folder of a given one; what is compiled goes to a bucket when the command ends."""
    if not is_remote(folder):
        return Path(folder).expanduser()
    from m2dit_jax.utils.remote.places import shared_place

    return shared_place(folder)


def default_folder() -> Path:
    """The user's folder for what was compiled."""
    return user_caches() / "compiled"


def _cpu_name() -> str:
    """A hash of the machine's kind of CPU and of the instructions that it knows."""
    about = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kinds = ("model name", "flags", "Features", "CPU part")
        about += sorted({line for line in lines if line.startswith(kinds)})
    except OSError:
        pass  # not Linux
    return f"cpu-{hashlib.sha256(repr(about).encode()).hexdigest()[:12]}"
