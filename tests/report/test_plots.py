import base64

import numpy as np
import pytest

from m2dit_jax.report.plots import Level, curves, figure_image, figure_uri, heat_maps, level_bars


def colour_at(figure, axes, x, y):
    """Of the pixel that shows the place (x, y) of the plot."""
    picture = np.asarray(figure_image(figure))
    column, row = axes.transData.transform((x, y)).round().astype(int)
    return picture[picture.shape[0] - 1 - row, column].astype(int)


def test_larger_cells_of_a_heat_map_are_darker_and_show_their_value():
    figure = heat_maps([("a", np.array([[0.0, 1.0]]))], "row", "column")
    (axes,) = figure.axes
    beside_the_text = 0.35
    first, second = (colour_at(figure, axes, x, beside_the_text) for x in (0, 1))
    assert first.sum() > 600 > 400 > second.sum()
    assert [text.get_text() for text in axes.texts] == ["0", "1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]


def test_heat_maps_stand_in_rows_of_four():
    figure = heat_maps([(str(i), np.eye(2)) for i in range(5)], "row", "column")
    assert [axes.get_title() for axes in figure.axes] == ["0", "1", "2", "3", "4"]
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops[4] < min(tops[:4])
    with pytest.raises(ValueError, match="at least one matrix"):
        heat_maps([], "row", "column")


def test_a_bar_ends_at_its_score_and_marks_stand_at_floor_and_ceiling():
    figure = level_bars({"a": Level(0.5, 0.25, 0.75), "b": Level(0.1, None, None)})
    (axes,) = figure.axes
    assert (colour_at(figure, axes, 0.45, 0) == [0x1F, 0x5F, 0xBF]).all()
    assert (colour_at(figure, axes, 0.55, 0) == 255).all()
    red, green = colour_at(figure, axes, 0.25, 0), colour_at(figure, axes, 0.75, 0)
    assert red.argmax() == 0 and green.argmax() == 1
    assert (colour_at(figure, axes, 0.25, 1) == 255).all()


def test_a_figure_is_svg_that_comes_out_the_same_each_time():
    uris = [figure_uri(curves({"light": [1.0, 3.0, 2.0]}, "scene")) for _ in range(2)]
    assert uris[0] == uris[1]
    start, _, coded = uris[0].partition(",")
    assert start == "data:image/svg+xml;base64"
    assert b"<svg" in base64.b64decode(coded)
