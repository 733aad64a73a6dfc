"""What XLA must know of an NVIDIA GPU to compile for one that is absent."""

from dataclasses import dataclass

from m2dit_jax.utils.chips import CHIPS


@dataclass(frozen=True)
class GpuTarget:
    """Hardware limits as the CUDA driver reports them (`cudaDeviceProp`); sizes in bytes."""

    kind: str
    capability: tuple[int, int]
    multiprocessors: int
    lanes: int
    clock_ghz: float
    shared_per_multiprocessor: int
    shared_per_block: int
    l2: int
    threads_per_multiprocessor: int = 2048


def _card(
    kind: str, capability: tuple[int, int], multiprocessors: int, clock_ghz: float, l2: int
) -> GpuTarget:
    """A card of compute capability 8.6, 8.9 or 12.0, which share these limits."""
    return GpuTarget(kind, capability, multiprocessors, 128, clock_ghz, 102_400, 101_376, l2, 1536)


_MIB = 2**20
# NVIDIA's tuning guides of Ampere, Ada, Hopper and Blackwell: multiprocessors, shared memory,
# caches; its architecture papers: clocks of the cards.
GPU_TARGETS = {
    "a100": GpuTarget("a100", (8, 0), 108, 64, 1.41, 167_936, 166_912, 40 * _MIB),
    "a100_40": GpuTarget("a100_40", (8, 0), 108, 64, 1.41, 167_936, 166_912, 40 * _MIB),
    "h100": GpuTarget("h100", (9, 0), 132, 128, 1.98, 233_472, 232_448, 50 * _MIB),
    "h200": GpuTarget("h200", (9, 0), 132, 128, 1.98, 233_472, 232_448, 50 * _MIB),
    "b200": GpuTarget("b200", (10, 0), 148, 128, 1.965, 233_472, 232_448, 132_644_864),
    "rtx3060": _card("rtx3060", (8, 6), 28, 1.777, 3 * _MIB),
    "rtx4060ti": _card("rtx4060ti", (8, 9), 34, 2.535, 32 * _MIB),
    "rtx4090": _card("rtx4090", (8, 9), 128, 2.52, 72 * _MIB),
    "rtx5090": _card("rtx5090", (12, 0), 170, 2.407, 96 * _MIB),
    "l4": _card("l4", (8, 9), 58, 2.04, 48 * _MIB),
    "l40s": _card("l40s", (8, 9), 142, 2.52, 96 * _MIB),
}


def target_config(target: GpuTarget) -> str:
    """A GpuTargetConfigProto of XLA (stream_executor/device_description.proto) as text."""
    chip = CHIPS[target.kind]
    major, minor = target.capability
    # XLA's own descriptions: of the cards none has them, Blackwell's among them.
    features = "ACCELERATED_FEATURES" if major in (9, 10) else "NONE"
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024
          threads_per_warp: 32
          threads_per_core_limit: {target.threads_per_multiprocessor}
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          shared_memory_per_block: 49152
          shared_memory_per_block_optin: {target.shared_per_block}
          shared_memory_per_core: {target.shared_per_multiprocessor}
          core_count: {target.multiprocessors}
          fpus_per_core: {target.lanes}
          clock_rate_ghz: {target.clock_ghz}
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
          thread_dim_limit_x: 1024
          thread_dim_limit_y: 1024
          thread_dim_limit_z: 64
          memory_bandwidth: {int(chip.memory_bandwidth)}
          device_memory_size: {chip.memory_bytes}
          l2_cache_size: {target.l2}
          cuda_compute_capability {{
            major: {major} minor: {minor} feature_extension: {features}
          }}
          dnn_version: "9.10.0"
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "{chip.name}"
    """
