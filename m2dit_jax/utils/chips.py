"""Figures of accelerators, each with its source: speed, memory, networks."""

from dataclasses import dataclass

GB = 10**9
GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device. Bandwidths are bytes per second that it can receive: one way, all links together.

    `flops` are of dense bfloat16 products per second. `node_bandwidth` is of the network between
    nodes; None: all devices are on one network. `sources` say where the figures are from.
    """

    name: str
    flops: float
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    node_bandwidth: float | None
    sources: tuple[str, ...]


def _tpu(name: str, teraflops: int, memory: int, bandwidth: int, links: int, page: str) -> Chip:
    """`bandwidth` in gigabytes, `links` in gigabits per second."""
    return Chip(
        name,
        teraflops * 1e12,
        memory,
        float(bandwidth * GB),
        links / 8 * GB,
        None,
        (
            f"https://cloud.google.com/tpu/docs/{page}: peak bf16 compute, HBM, inter-chip "
            "interconnect of all links together",
        ),
    )


def _nvidia(
    name: str,
    teraflops: int,
    memory: int,
    bandwidth: int,
    nvlink: int,
    network: int,
    sources: tuple[str, str],
) -> Chip:
    """`nvlink` in gigabytes per second both ways; `network` in gigabits per second of a GPU."""
    return Chip(
        name,
        teraflops * 1e12,
        memory,
        float(bandwidth * GB),
        nvlink / 2 * GB,
        network / 8 * GB,
        (
            f"{sources[0]}: dense bf16 tensor cores, memory bandwidth, NVLink (half of it)",
            f"{sources[1]}: network adapters, one for each GPU",
            "device_memory_size of the target configs of XLA: memory",
        ),
    )


_DGX_H100 = "NVIDIA DGX H100/H200 data sheet"
CHIPS = {
    "v5e": _tpu("TPU v5e", 197, 16 * GIB, 819, 1600, "v5e"),
    "v5p": _tpu("TPU v5p", 459, 95 * GIB, 2765, 4800, "v5p"),
    "v6e": _tpu("TPU v6e", 918, 32 * GIB, 1600, 3200, "v6e"),
    "a100": _nvidia(
        "NVIDIA A100-SXM4-80GB",
        312,
        85_100_068_864,
        2039,
        600,
        200,
        ("NVIDIA A100 data sheet", "NVIDIA DGX A100 data sheet"),
    ),
    "h100": _nvidia(
        "NVIDIA H100 80GB HBM3",
        989,
        84_942_979_072,
        3350,
        900,
        400,
        ("NVIDIA H100 data sheet, SXM", _DGX_H100),
    ),
    "h200": _nvidia(
        "NVIDIA H200 141GB HBM3e",
        989,
        151_397_597_184,
        4800,
        900,
        400,
        ("NVIDIA H200 data sheet, SXM", _DGX_H100),
    ),
    "b200": _nvidia(
        "NVIDIA B200",
        2250,
        191_514_411_008,
        7700,
        1800,
        400,
        ("NVIDIA DGX B200 data sheet, an eighth of it", "NVIDIA DGX B200 data sheet"),
    ),
    "cpu": Chip(
        "simulated CPU device",
        1e12,
        8 * GIB,
        1e11,
        1e10,
        1e9,
        ("round figures of no machine, to try the command without an extra",),
    ),
}

# Beginnings of JAX's `device_kind`, the longer ones first.
_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls so, None if its figures are not known."""
    for beginning, name in _KINDS.items():
        if device_kind.startswith(beginning):
            return CHIPS[name]
    return None
