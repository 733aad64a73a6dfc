"""The check of a GPU behind `launch/gpu_check.sh`: attention, parity, full-size steps."""
