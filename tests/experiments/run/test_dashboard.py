"""Pictures of a run in TensorBoard, read off their axes."""

import math

import numpy as np
import pytest

from isorl.experiments.run.dashboard import _smoothed, matrix_figure


def test_the_matrix_shades_each_task_by_its_own_range():
    figure = matrix_figure(["few points", "many"], [[0.0, 100.0], [1.0, 300.0], [math.nan, 200.0]])
    (axes,) = figure.figure.axes
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array().filled(np.nan), [[0, 0], [1, 1], [np.nan, 0.5]])
    assert [text.get_text() for text in axes.texts] == ["0", "100", "1", "300", "nan", "200"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
    inches = axes.get_position().transformed(
        figure.figure.dpi_scale_trans.inverted() + figure.figure.transFigure
    )
    assert (inches.x0, inches.y0) == pytest.approx((0.9, 0.8))


@pytest.mark.filterwarnings("error")
def test_a_task_without_any_figure_is_left_blank():
    (image,) = matrix_figure(["endless", "other"], [[math.nan, 1.0], [math.nan, 2.0]]).figure.axes[0].images
    np.testing.assert_allclose(image.get_array().filled(np.nan), [[np.nan, 0], [np.nan, 1]])


def test_returns_are_smoothed_over_as_many_episodes_as_there_are():
    assert [each.tolist() for each in _smoothed([3], [1.0])] == [[3], [1.0]]
    assert [each.tolist() for each in _smoothed([2, 4], [1.0, 3.0])] == [[3.0], [2.0]]
    at, mean = _smoothed(list(range(30)), [0.0] * 5 + [25.0] * 25)
    assert (round(at[0], 9), mean[0], mean[-1], len(mean)) == (
        12,
        pytest.approx(20.0),
        pytest.approx(25.0),
        6,
    )
