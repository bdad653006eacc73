"""Pictures of a run in TensorBoard, read off their axes."""

import math

import numpy as np

from isorl.experiments.run.dashboard import matrix_figure


def test_the_matrix_shades_each_task_by_its_own_range():
    figure = matrix_figure(["few points", "many"], [[0.0, 100.0], [1.0, 300.0], [math.nan, 200.0]])
    (axes,) = figure.figure.axes
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array().filled(np.nan), [[0, 0], [1, 1], [np.nan, 0.5]])
    assert [text.get_text() for text in axes.texts] == ["0", "100", "1", "300", "nan", "200"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
