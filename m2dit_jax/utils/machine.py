"""CPUs and memory that this process may use, of the host and of its devices."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def usable_cpus() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def raise_open_files_limit() -> None:
    """Lets this process open as many files as the system allows it; Windows has no such limit."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says that there is no limit, and takes no more than this.
    wanted = 10_240 if sys.platform == "darwin" else most
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def peak_process_bytes() -> int:
    """The most memory that this process has had so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows, where psutil knows the peak; on Unix it only knows the present
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def process_bytes() -> int:
    """The memory that this process has now, in bytes."""
    import psutil

    return psutil.Process().memory_info().rss


def process_started() -> float:
    """When this process was started, in seconds since 1970."""
    import psutil

    return psutil.Process().create_time()


def free_bytes(device: Any) -> int | None:
    """Memory of a device that this process could still take; of a CPU the host's. None: unknown."""
    if device.platform == "cpu":
        return _free_host_bytes()
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))


def _free_host_bytes(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> int | None:
    """Host memory to be had without swapping, or less where a container has less."""
    found = []
    with suppress(OSError, StopIteration, ValueError):  # not Linux
        lines = Path(proc, "meminfo").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError, StopIteration):  # no container, or no limit ("max")
        most, used = (
            int(Path(cgroup, f"memory.{name}").read_text(encoding="utf-8"))
            for name in ("max", "current")
        )
        lines = Path(cgroup, "memory.stat").read_text(encoding="utf-8").splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        found.append(max(most - used + cached, 0))
    return min(found, default=None)


def user_caches() -> Path:
    """The user's folder for what this program can make or fetch again."""
    home = Path.home()
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        caches = home / "Library" / "Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(caches) / "m2dit_jax"
