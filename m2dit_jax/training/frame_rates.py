"""Frames per second of what a run learns, beside those of what it is to make."""

from collections.abc import Sequence
from fractions import Fraction

from m2dit_jax.data.encoded import EncodedDataset, different_rates

_ALIKE = 1.1  # rates that are a tenth apart look the same


def rate_misfit(dataset: EncodedDataset, fps: float | int) -> str:
    """The problem of a dataset that was not encoded at `config.data.fps`; empty if it was.

    0 allows every rate.
    """
    found = encoded_fps(dataset)
    if not fps or (found is not None and abs(found / fps - 1) < 1e-3):
        return ""
    how = "at each video's own frame rate" if found is None else f"at {found:g} frames a second"
    return f"was encoded {how}, config.data.fps is {fps:g}"


def encoded_fps(dataset: EncodedDataset) -> float | None:
    """Frames per second that `encode --fps` was given, None for each video's own."""
    text = dataset.settings.get("fps")
    return None if text is None else float(Fraction(text))


def rate_notes(datasets: Sequence[EncodedDataset], sample_fps: float | int) -> list[str]:
    """Lines for the user: rates that differ among the videos, and from `config.sample.fps`."""
    counts: dict[str, int] = {}
    for dataset in datasets:
        fps = encoded_fps(dataset)
        rates = dataset.statistics.get("fps", {}) if fps is None else {f"{fps:g}": 1}
        counts |= rates
    rates = different_rates(counts)
    if rates:
        return [
            f"data        the videos have {rates[0]} to {rates[1]} frames a second, and each was "
            "taken at its own: the same motion is faster in some (encode --fps makes them alike)"
        ]
    strides = [
        stride for each in datasets if isinstance(stride := each.settings.get("stride"), int)
    ]
    if not counts or not strides:
        return []
    fastest = max(map(float, counts))
    slowest = fastest / max(strides)
    if slowest / _ALIKE <= sample_fps <= fastest * _ALIKE:
        return []
    return [
        f"data        frames are {slowest:.4g} to {fastest:.4g} a second, config.sample.fps is "
        f"{sample_fps:g}: motion will not be as fast as in the videos"
    ]
