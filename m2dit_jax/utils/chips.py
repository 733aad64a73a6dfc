"""Figures of accelerators, each with its source: speed, memory, networks."""

from dataclasses import dataclass

GB = 10**9
GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device. Bandwidths are bytes per second that it can receive: one way, all links together.

    `flops` are of dense bfloat16 products per second. `node_bandwidth` is of the network between
    nodes; None: all devices are on one network. `host_bandwidth` is from its host's memory; None:
    nobody published it. `sources` say where the figures are from.
    """

    name: str
    flops: float
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    node_bandwidth: float | None
    sources: tuple[str, ...]
    host_bandwidth: float | None = None


# Of 16 lanes, one way: gigatransfers per second x lanes x 128/130 (PCI Express base specification).
_PCIE = {4: 16e9 * 16 * 128 / 130 / 8, 5: 32e9 * 16 * 128 / 130 / 8}


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
    pcie: int = 5,
) -> Chip:
    """`nvlink` in gigabytes per second both ways; `network` in gigabits per second of a GPU.

    `pcie` is the generation of its 16 lanes.
    """
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
            f"PCI Express {pcie}.0 x16: from the host",
        ),
        _PCIE[pcie],
    )


def _card(
    name: str, teraflops: float, memory: int, bandwidth: int, pcie: tuple[int, int], sources: str
) -> Chip:
    """A card without NVLink: cards speak to each other through their host.

    `pcie` has generation and lanes; `sources` say where speed and memory are from.
    """
    generation, lanes = pcie
    host = _PCIE[generation] * lanes / 16
    return Chip(
        name,
        teraflops * 1e12,
        memory,
        float(bandwidth * GB),
        host,
        None,
        (
            sources,
            f"PCI Express {generation}.0 x{lanes}: from the host, and between cards",
        ),
        host,
    )


# What NVIDIA's driver leaves of a card's memory to programs, as they tell it on Linux: 12 GB are
# 11.75 GiB. With error correction (L4, L40S) it is less.
_SEEN = "memory as PyTorch tells it"
_AMPERE, _ADA, _BLACKWELL = (
    f"NVIDIA {name} architecture paper: dense bf16 tensor cores with float32 sums, bandwidth"
    for name in ("GA102", "Ada", "RTX Blackwell")
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
        pcie=4,
    ),
    "a100_40": _nvidia(
        "NVIDIA A100-SXM4-40GB",
        312,
        42_331_013_120,
        1555,
        600,
        200,
        ("NVIDIA A100 data sheet", "NVIDIA DGX A100 data sheet"),
        pcie=4,
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
    # 28 multiprocessors x 256 products x 1.777 GHz, as the paper counts the 3090's 82.
    "rtx3060": _card(
        "NVIDIA GeForce RTX 3060", 25.5, int(11.75 * GIB), 360, (4, 16), f"{_AMPERE}; {_SEEN}"
    ),
    # 34 multiprocessors x 512 products x 2.535 GHz, as the paper counts the 4090's 128. Memory: as
    # much less than 16 GiB as the 4090 has less than 24.
    "rtx4060ti": _card(
        "NVIDIA GeForce RTX 4060 Ti", 44.1, int(15.65 * GIB), 288, (4, 8), f"{_ADA}; {_SEEN}"
    ),
    "rtx4090": _card(
        "NVIDIA GeForce RTX 4090", 165.2, int(23.64 * GIB), 1008, (4, 16), f"{_ADA}; {_SEEN}"
    ),
    "rtx5090": _card(
        "NVIDIA GeForce RTX 5090",
        209.5,
        33_677_180_928,
        1792,
        (5, 16),
        f"{_BLACKWELL}; memory as CUDA's deviceQuery tells it",
    ),
    "l4": _card(
        "NVIDIA L4",
        121.0,
        int(22.0 * GIB),
        300,
        (4, 16),
        "NVIDIA L4 data sheet, half of the figure with sparsity; memory: 23,034 MiB of nvidia-smi, "
        "less what the driver keeps",
    ),
    "l40s": _card(
        "NVIDIA L40S", 362.0, int(44.4 * GIB), 864, (4, 16), f"NVIDIA L40S data sheet; {_SEEN}"
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

# Beginnings of JAX's `device_kind`, the longer ones first. Cards are known by their whole name: an
# L40 is no L4, and a laptop's 4090 no 4090.
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
    for chip in CHIPS.values():
        if chip.name == device_kind:
            return chip
    for beginning, name in _KINDS.items():
        if device_kind.startswith(beginning):
            return CHIPS[name]
    return None
