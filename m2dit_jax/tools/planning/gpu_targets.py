"""What XLA must know of an NVIDIA GPU to compile for one that is absent."""

from dataclasses import dataclass

from m2dit_jax.utils.chips import CHIPS


@dataclass(frozen=True)
class GpuTarget:
    """Hardware limits as the CUDA driver reports them (`cudaDeviceProp`); sizes in bytes."""

    kind: str
    capability: int
    multiprocessors: int
    lanes: int
    clock_ghz: float
    shared_per_multiprocessor: int
    shared_per_block: int
    l2: int


# NVIDIA's tuning guides of Ampere, Hopper and Blackwell: multiprocessors, shared memory, caches.
GPU_TARGETS = {
    "a100": GpuTarget("a100", 8, 108, 64, 1.41, 167_936, 166_912, 41_943_040),
    "h100": GpuTarget("h100", 9, 132, 128, 1.98, 233_472, 232_448, 52_428_800),
    "h200": GpuTarget("h200", 9, 132, 128, 1.98, 233_472, 232_448, 52_428_800),
    "b200": GpuTarget("b200", 10, 148, 128, 1.965, 233_472, 232_448, 132_644_864),
}


def target_config(target: GpuTarget) -> str:
    """A GpuTargetConfigProto of XLA (stream_executor/device_description.proto) as text."""
    chip = CHIPS[target.kind]
    features = "NONE" if target.capability < 9 else "ACCELERATED_FEATURES"
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024
          threads_per_warp: 32
          threads_per_core_limit: 2048
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
          cuda_compute_capability {{ major: {target.capability} feature_extension: {features} }}
          dnn_version: "9.10.0"
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "{chip.name}"
    """
