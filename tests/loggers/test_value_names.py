"""No two values are shown under one name: history, logs and monitors keep one."""

import keras
import numpy as np
import pytest

import looplab
from looplab.errors import Refused
from looplab.loggers import value_names

X = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
Y = X[:, :1]


def make_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def returning(**scalars):
    """A trainer whose steps return more scalars."""

    def train_step(self, batch):
        return {**self.minimize(self.compute_loss, batch), **scalars.get("train", {})}

    def test_step(self, batch):
        return {**self.measure(self.compute_loss, batch), **scalars.get("test", {})}

    return type("Returning", (looplab.Trainer,), {"train_step": train_step, "test_step": test_step})


class Logs(looplab.Callback):
    """Logs a value at the end of epochs."""

    def __init__(self, name, declared=True):
        self.name, self.produces = name, (name,) if declared else ()

    def on_epoch_end(self, event, controls):
        controls.log({self.name: 1.0})


def terms(*value_names):
    def compute_loss(self, batch, training):
        values = (self.model(batch[0], training=training) - batch[1])[:, 0] ** 2
        return dict.fromkeys(value_names, values)

    return type("Terms", (looplab.Trainer,), {"compute_loss": compute_loss})


ema = lambda: keras.optimizers.SGD(0.1, use_ema=True)  # noqa: E731
VALIDATION = {"validation_data": (X, Y)}
SETS = {"validation_data": {"a": looplab.Validation((X, Y)), "a_b": looplab.Validation((X, Y))}}

CASES = {
    "a metric and a scalar": (returning(train={"mae": 1.0}), {"metrics": ["mae"]}, {}, "'mae'"),
    "a metric and a term": (terms("mae", "mse"), {"metrics": []}, {}, None),
    "a scalar in a group of repeats": (returning(train={"(2) steps/x": 1.0}), {}, {}, r"'\(2\) steps/x'"),
    "a metric named as a term": (terms("mae", "mse"), {"metrics": ["mae"], "own": True}, {}, "'mae'"),
    "a metric as the rate": (
        looplab.Trainer,
        {"metrics": [keras.metrics.MeanAbsoluteError(name="learning_rate")]},
        {},
        "'learning_rate'",
    ),
    "a metric as the whole loss": (
        looplab.Trainer,
        {"metrics": [keras.metrics.MeanAbsoluteError(name="loss")]},
        {},
        "'loss'",
    ),
    "a scalar as validation": (returning(train={"val_loss": 1.0}), {}, VALIDATION, "'val_loss'"),
    "only of validation": (returning(test={"mae": 1.0}), {"metrics": ["mae"]}, VALIDATION, "'mae'"),
    "two sets": (
        returning(train={"b_loss": 1.0}, test={"b_loss": 1.0}),
        {},
        SETS,
        "'a_b_loss'",
    ),
    "raw values": (returning(test={"raw_loss": 1.0}), {"optimizer": ema}, VALIDATION, "'raw_loss'"),
    "before the mean": (returning(train={"epoch_loss": 1.0}), {}, {}, "'epoch_loss'"),
    "a callback": (looplab.Trainer, {"callbacks": [Logs("val_loss")]}, VALIDATION, "'val_loss'"),
    "two callbacks": (looplab.Trainer, {"callbacks": [Logs("score"), Logs("score")]}, {}, "'score'"),
    "a callback that does not say": (
        looplab.Trainer,
        {"callbacks": [Logs("epoch_loss", declared=False)]},
        {},
        "controls.log: 'epoch_loss'",
    ),
    "a callback that names a metric": (
        looplab.Trainer,
        {"callbacks": [Logs("val_loss", declared=False)]},
        VALIDATION,
        "controls.log: 'val_loss'",
    ),
}


@pytest.mark.share(5)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.promise(41)
def test_two_values_of_one_name_are_refused(case):
    kind, options, fit, words = CASES[case]
    options = {**options}
    if options.pop("own", False):  # its loss gives predictions to no metric

        class Measured(kind):
            def compute_loss(self, batch, training):
                self.update_metrics(batch[1], self.model(batch[0], training=training))
                return super().compute_loss(batch, training)

        kind = Measured
    loss = None if words is None else "mse"  # of the terms, which are a loss of their own
    trainer = kind(make_model, options.pop("optimizer", "sgd"), loss, execution="graph", **options)
    if words is None:
        trainer.fit(X, Y, verbose=0, **fit)
        return
    with pytest.raises(looplab.ConfigurationError, match=words):
        trainer.fit(X, Y, verbose=0, **fit)


def test_an_evaluation_alone_refuses_them_too():
    trainer = returning(test={"mae": 1.0})(make_model, "sgd", "mse", ["mae"])
    with pytest.raises(Refused, match="'mae' would be the name of 2 values"):
        trainer.evaluate(X, Y)


@pytest.mark.slow
def test_all_that_is_given_stands_in_history():
    """Terms, scalars, metrics, sets with odd names: each has its own series, as long as the epochs."""
    metrics = ["mae", keras.metrics.MeanSquaredError(name="val_mae_too")]
    trainer = returning(train={"one": 1.0}, test={"two": 2.0})(
        make_model,
        ema,
        "mse",
        metrics,
        execution="graph",
        checkpoint=looplab.checkpoint.Policy(monitor="a_loss"),
    )
    sets = {name: looplab.Validation((X, Y)) for name in ("a", "b_c")}
    history = trainer.fit(X, Y, epochs=2, verbose=0, validation_data=sets).history
    own = ["loss", "mae", "val_mae_too"]
    held = [f"{raw}{name}" for raw in ("", "raw_") for name in [*own, "two"]]
    expected = [*own, "one", "learning_rate", *(f"{s}_{name}" for s in sets for name in held)]
    assert sorted(history) == sorted(expected)
    assert {len(series) for series in history.values()} == {2}


def test_what_is_said_names_all_givers():
    with pytest.raises(Refused) as caught:
        value_names.check([("one", "", ["a", "b"]), ("two", "val_", ["a"]), ("three", "", ["a", "epoch_x"])])
    first, second = (str(problem) for problem in caught.value.problems)
    assert "three gives 'epoch_x'" in first and "that of 'x'" in first
    assert second.startswith("'a' would be the name of 2 values, of one and of three")
