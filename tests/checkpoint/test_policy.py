import pytest

import looplab
from looplab import CheckpointPolicy


def test_the_lowest_loss_is_best_and_nan_never_is():
    policy = CheckpointPolicy()
    best = None
    for value, better in [(float("nan"), False), (1.0, True), (1.0, False), (0.5, True), (0.7, False)]:
        assert policy.better(value, best) is better
        best = value if better else best


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_auc"])
def test_accuracies_rise(monitor):
    policy = CheckpointPolicy(monitor=monitor)
    assert policy.better(0.9, 0.8) and not policy.better(0.7, 0.8)
    assert CheckpointPolicy(monitor=monitor, mode="min").better(0.7, 0.8)


def test_without_validation_the_training_loss_decides():
    assert CheckpointPolicy().value({"loss": 2.0}) == ("loss", 2.0)
    assert CheckpointPolicy().value({"loss": 2.0, "val_loss": 3.0}) == ("val_loss", 3.0)
    assert CheckpointPolicy(monitor="val_f1").value({"loss": 2.0, "val_loss": 3.0}) is None


@pytest.mark.parametrize("bad", [{"every": "soon"}, {"keep_last": 0}, {"mode": "best"}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(looplab.ConfigurationError, match=f"checkpoint.{next(iter(bad))}"):
        CheckpointPolicy(**bad)
