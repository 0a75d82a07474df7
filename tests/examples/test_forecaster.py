"""Forecasts of sunspots: windows without a look ahead, the obvious forecasts, and the stated result."""

import sys

import numpy as np
import pytest

import looplab
from looplab.examples.forecaster import CYCLE, Forecast, Forecaster, sunspots
from tests.examples.shipped import continues_exactly, last, train


@pytest.fixture(scope="module")
def numbers():
    from statsmodels.datasets import sunspots as dataset

    return dataset.load().data["SUNACTIVITY"].to_numpy("float32")


def test_windows_hold_the_years_in_order_and_no_held_out_year_is_trained_on(numbers):
    data = sunspots(window=22, horizon=5, held_out=0.2)
    first = round(len(numbers) * 0.8)
    (past, future), (held_past, held_future) = data["train"], data["validation"]
    for windows, begins in ((past, 0), (held_past, first - 22)):
        for row in (0, len(windows) - 1):
            np.testing.assert_array_equal(windows[row], numbers[begins + row : begins + row + 22])
    np.testing.assert_array_equal(future[-1], numbers[first - 5 : first])  # the last years before
    np.testing.assert_array_equal(held_future[0], numbers[first : first + 5])
    np.testing.assert_array_equal(held_future[-1], numbers[-5:])


@pytest.mark.parametrize("wrong", [{"window": 10}, {"horizon": 12}, {"horizon": 0}, {"held_out": 1.0}])
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(looplab.ConfigurationError, match=r"data\.source"):
        sunspots(**wrong)


@pytest.mark.share(1)
@pytest.mark.parametrize("horizon", [1, 5, 11])
def test_the_obvious_forecasts_are_the_last_cycle_and_the_last_year(horizon, numbers):
    data = sunspots(window=33, horizon=horizon)
    trainer = Forecast(lambda: Forecaster(horizon, units=2), "adam", "mae")
    found = trainer.evaluate(data["validation"], batch_size=7)
    first = round(len(numbers) * 0.8)
    seasonal, persistent = [], []
    for year in range(first, len(numbers) - horizon + 1):
        ahead = np.arange(year, year + horizon)
        seasonal.append(np.abs(numbers[ahead] - numbers[ahead - CYCLE]).mean())
        persistent.append(np.abs(numbers[ahead] - numbers[year - 1]).mean())
    assert found["seasonal_naive_mae"] == pytest.approx(np.mean(seasonal), rel=1e-5)
    assert found["persistence_mae"] == pytest.approx(np.mean(persistent), rel=1e-5)


@pytest.mark.slow
def test_the_shipped_experiment_continues_exactly(tmp_path):
    tiny = ["model.units=4", "data.batch_size=100", "+schedule.total_steps=6"]
    logged = continues_exactly("forecaster", tmp_path, *tiny)
    assert {r["split"] for r in logged if "epoch_seasonal_naive_mae" in r["values"]} == {"validation"}


def test_without_statsmodels_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    with pytest.raises(looplab.ConfigurationError, match=r"pip install 'looplab\[examples\]'"):
        sunspots()


@pytest.mark.slow
def test_it_beats_the_last_cycle_and_the_last_year(tmp_path):
    train("forecaster", tmp_path)
    own, seasonal, persistent = (
        last(tmp_path, f"epoch_{name}") for name in ("mae", "seasonal_naive_mae", "persistence_mae")
    )
    assert own < 0.9 * seasonal
    assert own < persistent
