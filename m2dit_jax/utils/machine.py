"""CPUs and memory that the operating system gives to this process."""

import os
import sys
from contextlib import suppress


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
