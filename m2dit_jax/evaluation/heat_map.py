"""Small matrices as a picture."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

# In pixels.
_CELL, _MARGIN, _TITLE, _MAPS_IN_A_ROW = 56, 44, 26, 4
_FONT = ImageFont.load_default(13)
_LIGHT, _DARK = np.array([247, 251, 255]), np.array([8, 48, 107])


def heat_maps(
    matrices: Sequence[tuple[str, Float[np.ndarray, "_R _C"]]], rows: str, columns: str
) -> Image.Image:
    """Each matrix under its title, its cells the darker the larger, with their values.

    `rows` and `columns` say what their numbers, from 1, count. Raises ValueError without a matrix.
    """
    if not matrices:
        raise ValueError("needs at least one matrix")
    parts = [_heat_map(title, matrix, rows, columns) for title, matrix in matrices]
    lines = [parts[i : i + _MAPS_IN_A_ROW] for i in range(0, len(parts), _MAPS_IN_A_ROW)]
    sheet = Image.new(
        "RGB",
        (
            max(sum(part.width for part in line) for line in lines),
            sum(max(part.height for part in line) for line in lines),
        ),
        "white",
    )
    top = 0
    for line in lines:
        left = 0
        for part in line:
            sheet.paste(part, (left, top))
            left += part.width
        top += max(part.height for part in line)
    return sheet


def _heat_map(title: str, matrix: Float[np.ndarray, "R C"], rows: str, columns: str) -> Image.Image:
    height, width = matrix.shape
    left, top = _MARGIN + 20, _TITLE + 20
    image = Image.new("RGB", (left + width * _CELL + 20, top + height * _CELL + 20), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, 4), title, "black", _FONT)
    draw.text((4, top - 18), rows, "gray", _FONT)
    most = max(float(np.max(matrix)), 1e-12)
    for column in range(width):
        place = (left + column * _CELL, top - 18)
        draw.text(place, f"{columns} {column + 1}", "gray", _FONT)
    for row in range(height):
        draw.text((4, top + row * _CELL + 20), str(row + 1), "gray", _FONT)
        for column in range(width):
            share = max(float(matrix[row, column]) / most, 0.0)
            colour = tuple((_LIGHT + share * (_DARK - _LIGHT)).astype(int).tolist())
            corner = (left + column * _CELL, top + row * _CELL)
            draw.rectangle((*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2), fill=colour)
            ink = "white" if share > 0.5 else "black"
            value = f"{matrix[row, column]:.2g}"
            draw.text((corner[0] + 6, corner[1] + 20), value, ink, _FONT)
    return image
