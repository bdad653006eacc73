"""What is recorded, read back by TensorBoard's own API and from metrics.jsonl."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.summary import make_histogram

from isorl.experiments.run.loggers.tensorboard import HISTOGRAM_BINS
from isorl.experiments.run.recording import Recorder

VALUES = {
    "wide": torch.logspace(-6, 2, 50, dtype=torch.double),
    "single precision": torch.randn(64, generator=torch.Generator().manual_seed(1)),
    "all the same": torch.ones(8, dtype=torch.double),
    "with gaps": torch.tensor([1.0, math.nan, 3.0, math.inf]),
    "nothing measured": torch.full((3,), math.nan),
    "number": 0.25,
    "counted": 3,
    "numpy's": np.float32(0.5),
    "not measured": math.nan,
    "text": "words",
}


@pytest.fixture
def folder(tmp_path):
    config = SimpleNamespace(logger=["tensorboard"])
    recorder = Recorder(tmp_path, config, SimpleNamespace(task=SimpleNamespace(name="rooms"), number=2))
    recorder.record(VALUES, 7)
    recorder.logger.record("train/loss", 1.5)
    recorder.logger.record("hidden", 1.0, exclude="tensorboard")
    recorder.logger.dump(8)
    recorder.close()
    return tmp_path


def test_tensorboard_shows_numbers_and_texts(folder):
    events = EventAccumulator(str(folder)).Reload()
    for key in ("number", "counted", "numpy's"):
        (event,) = events.Scalars(key)
        assert (event.step, event.value) == (7, VALUES[key])
    assert math.isnan(events.Scalars("not measured")[0].value)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(8, 1.5)]
    assert "hidden" not in events.Tags()["scalars"]
    assert "text/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize("key", ["wide", "single precision", "all the same", "with gaps"])
def test_tensorboard_shows_spectra(folder, key):
    (event,) = EventAccumulator(str(folder)).Reload().Histograms(key)
    histogram, x = event.histogram_value, VALUES[key].double()
    x = x[x.isfinite()].numpy()
    assert (histogram.min, histogram.max, histogram.num) == (x.min(), x.max(), len(x))
    assert histogram.sum == pytest.approx(x.sum())
    assert histogram.sum_squares == pytest.approx((x**2).sum())
    assert sum(histogram.bucket) == len(x)
    assert histogram.bucket_limit[0] <= x.min() <= x.max() <= histogram.bucket_limit[-1]
    if x.min() < x.max():  # where all are the same, torch and numpy choose different ends
        theirs = make_histogram(x, HISTOGRAM_BINS)
        np.testing.assert_allclose(histogram.bucket_limit, theirs.bucket_limit)
        np.testing.assert_array_equal(histogram.bucket, theirs.bucket)


def test_a_spectrum_that_could_not_be_measured_has_no_histogram(folder):
    assert "nothing measured" not in EventAccumulator(str(folder)).Reload().Tags()["histograms"]


def test_metrics_jsonl_holds_every_number(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {record["key"]: record["value"] for record in records}
    assert set(found) == {*VALUES, "train/loss", "hidden"} - {"text"}
    assert found["wide"] == VALUES["wide"].tolist()
    assert found["numpy's"] == 0.5
    assert all(
        (record["agent_step"], record["task"], record["visit"]) == (7, "rooms", 2) for record in records[:-2]
    )
