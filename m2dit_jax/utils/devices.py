"""Keeps a libtpu that happens to be installed from breaking a run on the CPU.

When libtpu is installed, jax loads it whatever the machine. Without a TPU that ends on the CPU
after some alarming lines on stderr. But jax takes chips on the PCI bus as proof of a TPU: in a
container on a TPU host that was given no device node, it insists on the TPU, for which libtpu
asks the metadata server for minutes (given up on after 400 s with jax 0.10.2, libtpu 0.0.52 and
simulated chips); with those queries off it fails at once. A truncated libtpu crashes Python.
"""

import importlib.util
import os
import sys
from pathlib import Path

# What a TPU (accel, or vfio with a number), an NVIDIA, WSL or AMD GPU shows under /dev.
# /dev/vfio/vfio alone says nothing: hosts for virtual machines have it too.
_DEVICE_NODES = (
    "accel[0-9]*",
    "vfio/[0-9]*",
    "vfio/devices/*",
    "nvidia[0-9]*",
    "nvidiactl",
    "dxg",
    "kfd",
)


def prefer_available_platform(dev: str = "/dev") -> None:
    """Selects the CPU if libtpu is installed but there is no accelerator.

    Call it before jax touches a device; jax may have been imported. Does nothing where the user
    chose with JAX_PLATFORMS, or where there may be an accelerator.
    """
    if "JAX_PLATFORMS" in os.environ or "JAX_FORCE_TPU_INIT" in os.environ:
        return
    if "TPU_LIBRARY_PATH" not in os.environ and importlib.util.find_spec("libtpu") is None:
        return
    if any(next(Path(dev).glob(pattern), None) for pattern in _DEVICE_NODES):
        return
    # Child processes, and jax if it has yet to be imported, read the environment.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        import jax

        # "tpu,cpu" is what importing jax sets by itself where it sees chips on the PCI bus.
        if jax.config.values["jax_platforms"] in (None, "", "tpu,cpu"):
            jax.config.update("jax_platforms", "cpu")
