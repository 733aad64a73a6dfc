"""Plots by matplotlib, without its global state and without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from m2dit_jax.report.document import data_uri

if TYPE_CHECKING:  # loading it takes longer than most commands need to answer
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrix = Float[np.ndarray, "_R _C"]

# In inches.
_CELL, _MARGIN, _MAPS_IN_A_ROW = 0.56, 1.0, 4
_BAR_WIDTH, _BAR_HEIGHT = 6.0, 0.35
_CURVE_WIDTH, _CURVE_HEIGHT = 2.8, 1.8
_SCORE, _FLOOR, _CEILING = "#1f5fbf", "#b3261e", "#2b7236"


class Level(NamedTuple):
    """A score between 0 and 1, with the least and the most that can be expected of it."""

    value: float
    floor: float | None
    ceiling: float | None


def heat_maps(matrices: Sequence[tuple[str, Matrix]], rows: str, columns: str) -> Figure:
    """Each matrix under its title, its cells the darker the larger, with their values.

    `rows` and `columns` say what their numbers, from 1, count. Raises ValueError without a matrix.
    """
    if not matrices:
        raise ValueError("needs at least one matrix, found none")
    across = min(len(matrices), _MAPS_IN_A_ROW)
    down = -(-len(matrices) // across)
    height, width = np.max([matrix.shape for _, matrix in matrices], axis=0)
    figure = _figure(across * (width * _CELL + _MARGIN), down * (height * _CELL + _MARGIN))
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (title, matrix) in zip(grid, matrices, strict=False):
        _heat_map(axes, matrix)
        axes.set(title=title, xlabel=columns, ylabel=rows)
    for axes in grid[len(matrices) :]:
        axes.remove()
    return figure


def level_bars(levels: Mapping[str, Level]) -> Figure:
    """A bar for each score, on a line from 0 to 1 with marks at its floor and its ceiling."""
    figure = _figure(_BAR_WIDTH, _BAR_HEIGHT * len(levels) + _MARGIN / 2)
    axes = figure.subplots()
    places = range(len(levels))
    axes.barh(places, [level.value for level in levels.values()], height=0.5, color=_SCORE)
    for place, level in zip(places, levels.values(), strict=True):
        for value, colour in ((level.floor, _FLOOR), (level.ceiling, _CEILING)):
            if value is not None:
                axes.vlines(value, place - 0.4, place + 0.4, colour, linewidth=2)
    axes.set_yticks(places, list(levels))
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    return figure


def curves(values: Mapping[str, Sequence[float]], x_label: str) -> Figure:
    """A curve for each of the names, over the numbers from 1."""
    figure = _figure(_CURVE_WIDTH * max(len(values), 1), _CURVE_HEIGHT)
    grid = figure.subplots(1, max(len(values), 1), squeeze=False).ravel()
    for axes, (name, series) in zip(grid, values.items(), strict=False):
        axes.plot(range(1, len(series) + 1), series, color=_SCORE, marker="o", markersize=3)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel(x_label)
        axes.locator_params(axis="x", integer=True)
    return figure


def figure_image(figure: Figure) -> Image.Image:
    """The figure as pixels, 100 an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def figure_uri(figure: Figure) -> str:
    """The figure as a data URI of SVG; the same figure gives the same text."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "m2dit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri("image/svg+xml", buffer.getvalue())


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _heat_map(axes: Axes, matrix: Matrix) -> None:
    least, most = min(float(matrix.min()), 0.0), max(float(matrix.max()), 1e-12)
    axes.imshow(matrix, cmap="Blues", vmin=least, vmax=most)
    for row, column in np.ndindex(*matrix.shape):
        value = float(matrix[row, column])
        ink = "white" if value - least > 0.5 * (most - least) else "black"
        axes.text(
            column, row, f"{value:.2g}", color=ink, ha="center", va="center", fontsize="small"
        )
    for set_ticks, count in zip((axes.set_yticks, axes.set_xticks), matrix.shape, strict=True):
        set_ticks(range(count), [str(number) for number in range(1, count + 1)])
