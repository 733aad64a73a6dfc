"""What an NVIDIA GPU must prove: attention, parity, full-size steps; `launch/gpu_check.sh`."""
