"""The kind of device that attention is compiled for: it decides between the implementations."""

from dataclasses import dataclass
from typing import Any

import jax

# cuDNN's flash attention needs Ampere.
CUDNN_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Target:
    """Platform of a device, and the CUDA compute capability of an NVIDIA GPU.

    JAX calls the GPUs of NVIDIA and AMD alike "gpu"; only the capability tells them apart.
    """

    platform: str
    capability: tuple[int, int] | None = None
    name: str = ""

    @classmethod
    def of(cls, device: Any) -> "Target":
        """The target that a device is, which may be one of an absent machine."""
        text = str(getattr(device, "compute_capability", ""))
        major, _, minor = text.partition(".")
        # AMD's are names such as gfx90a.
        capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
        platform = "gpu" if device.platform in ("gpu", "cuda", "rocm") else device.platform
        return cls(platform, capability, str(getattr(device, "device_kind", "")))

    @classmethod
    def here(cls) -> "Target":
        """The target that jax's first device is."""
        return cls.of(jax.devices()[0])

    @property
    def has_cudnn(self) -> bool:
        """Whether cuDNN has a flash attention for this device."""
        return self.capability is not None and self.capability >= CUDNN_CAPABILITY

    @property
    def without_cudnn(self) -> str:
        """The line that says why a GPU goes without cuDNN's attention, or ""."""
        if self.platform != "gpu" or self.has_cudnn:
            return ""
        least = ".".join(map(str, CUDNN_CAPABILITY))
        found = "none" if self.capability is None else ".".join(map(str, self.capability))
        return (
            f"{self.name or 'this GPU'}: cuDNN's attention needs CUDA compute capability {least}, "
            f"found {found}; attention runs without it, in chunks where it is long"
        )
