"""A loss or gradient that is not finite: the update is not made, the run ends, saved as it was before."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import state
from looplab.loggers import read_records

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = X[:, :1].copy()
BAD = Y.copy()
BAD[20] = np.nan  # in step 3 of 5
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def model():
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def everything(trainer):
    return state.read(trainer._engine.variables)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


@pytest.mark.parametrize("execution", ["graph", "xla_step", "xla_loop", "eager"])
def test_the_state_is_that_before_the_bad_step(strategy, execution, tmp_path):
    if execution.startswith("xla") and strategy != "auto":
        pytest.skip("BatchNormalization over replicas does not compile in XLA")
    how = {"run_eagerly": True} if execution == "eager" else {"execution": execution}
    common = {"strategy": strategy, "steps_per_execution": 4, **how}
    good = looplab.Trainer(model, "adam", "mse", ["mae"], **common)
    good.fit(X, Y, **FIT, steps=2)
    trainer = looplab.Trainer(model, "adam", "mse", ["mae"], **common, run_dir=tmp_path)
    with pytest.raises(looplab.DivergedError, match=r"in step 3: loss is nan.*that of step 2"):
        trainer.fit(X, BAD, **FIT, epochs=2)
    assert_equal(everything(good), everything(trainer))
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"], outcome["step"]) == ("diverged", 4, 2)
    saved = looplab.checkpoint.read(tmp_path / "checkpoints" / "step-00000002")
    assert all(np.isfinite(array).all() for array in saved.values())
    again = looplab.Trainer(model, "adam", "mse", ["mae"], **common, run_dir=tmp_path)
    with pytest.raises(looplab.DivergedError, match="in step 3"):
        again.fit(X, BAD, **FIT, epochs=2)
    assert [r.step for r in read_records(tmp_path / "metrics.jsonl")] == []


@pytest.mark.parametrize("execution", ["xla_step", "xla_loop"])
@pytest.mark.parametrize("bad", [0, 20, 39])
def test_what_xla_compiles_goes_back_wherever_batches_come_from(execution, bad):
    targets = Y.copy()
    targets[bad] = np.nan
    whole = {"steps_per_execution": 5, "execution": execution}

    def trained(of_stream):
        trainer = looplab.Trainer(model, "adam", "mse", ["mae"], **whole)
        data = tf.data.Dataset.from_tensor_slices((X, targets)).batch(8, drop_remainder=True)
        with pytest.raises(looplab.DivergedError, match=f"in step {bad // 8 + 1}: loss is nan"):
            trainer.fit(data, verbose=0) if of_stream else trainer.fit(X, targets, **FIT)
        return everything(trainer)

    stream, arrays = (trained(of_stream) for of_stream in (True, False))
    assert_equal(stream, arrays)
    good = looplab.Trainer(model, "adam", "mse", ["mae"], **whole)
    good.fit(X, Y, **FIT, steps=max(1, bad // 8))
    if bad // 8:
        assert_equal(arrays, everything(good))
    else:
        assert arrays["loop/step"] == 0


class InfiniteGradient(looplab.Trainer):
    def compute_loss(self, batch, training):
        return tf.sqrt(tf.nn.relu(self.model(batch)[:, 0] * 0.0))  # 0, whose gradient is infinite times 0


def test_a_gradient_alone_is_enough(strategy):
    trainer = InfiniteGradient(model, "sgd", strategy=strategy)
    before = trainer.model.get_weights()
    with pytest.raises(looplab.DivergedError, match="in step 1: a gradient is not finite"):
        trainer.fit(X, **FIT)
    for old, new in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class OneInfiniteGradient(looplab.Trainer):
    """The root of 0, and of 0 only, has a gradient that is not finite; the loss always is."""

    def compute_loss(self, batch, training):
        x, y = batch
        return tf.sqrt(y[:, 0]) * self.model(x)[:, 0] + tf.sqrt(y[:, 0] * tf.reduce_sum(self.model(x) ** 2))


@pytest.mark.parametrize("execution", ["xla_step", "xla_loop"])
@pytest.mark.parametrize(
    "optimizer",
    [keras.optimizers.Adam, keras.optimizers.SGD, lambda: keras.optimizers.RMSprop(clipvalue=0.1)],
    ids=["adam", "sgd", "clipped"],
)
def test_a_gradient_alone_is_found_in_the_midst_of_an_execution(execution, optimizer):
    def made():
        how = {"execution": execution, "steps_per_execution": 5}
        return OneInfiniteGradient(model, optimizer, **how)

    targets = np.abs(Y) + 0.1
    good, trainer = made(), made()
    good.fit(X, targets, **FIT, steps=3)
    targets[24:32] = 0.0  # step 4 of 5
    with pytest.raises(looplab.DivergedError, match="in step 4: a gradient is not finite"):
        trainer.fit(X, targets, **FIT, epochs=2)
    assert_equal(everything(good), everything(trainer))


class Limited(looplab.Trainer):
    """Holds a number that is not finite, and trains it, and nothing is wrong with that."""

    def setup(self):
        self.limit = tf.Variable([np.inf, 1.0])

    def train_step(self, batch):
        variables = [*self.model.trainable_variables, self.limit]
        return self.minimize(self.compute_loss, batch, variables=variables)

    def compute_loss(self, batch, training):
        x, y = batch
        return (tf.minimum(self.model(x)[:, 0], self.limit[0]) - y[:, 0]) ** 2 + self.limit[1] ** 2


def test_what_was_infinite_before_stops_nothing():
    dense = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])  # noqa: E731
    common = {"optimizer": "adam", "steps_per_execution": 5}
    graph, whole = (Limited(dense, **common, execution=mode) for mode in ("graph", "xla_loop"))
    for trainer in (graph, whole):
        trainer.fit(X, Y, **FIT, epochs=3)
    for left, right in zip(graph.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)
    assert not whole._engine.execution("train")._undoing.traces  # looked at once, and in vain


class Twice(looplab.Trainer):
    """Of two updates in a step the second fails."""

    def train_step(self, batch):
        first = self.minimize(lambda x, training: (self.model(x)[:, 0] - 1.0) ** 2, batch[0])
        second = self.minimize(self.compute_loss, batch)
        return {"first": first["loss"], "loss": second["loss"]}


def test_of_several_updates_in_a_step_none_remains(strategy):
    good, trainer = (Twice(model, "adam", "mse", strategy=strategy) for _ in range(2))
    good.fit(X, Y, **FIT, steps=2)
    with pytest.raises(looplab.DivergedError, match="in step 3: loss is nan"):
        trainer.fit(X, BAD, **FIT, epochs=2)
    assert_equal(everything(good), everything(trainer))


def test_ignore_goes_on(caplog):
    trainer = looplab.Trainer(model, "sgd", "mse", on_nonfinite="ignore")
    trainer.fit(X, BAD, **FIT, epochs=1)
    assert int(trainer.step.numpy()) == 5
    assert caplog.text.count("the loss is not finite at step 3") == 1
    with pytest.raises(looplab.ConfigurationError, match="on_nonfinite: 'skip'"):
        looplab.Trainer(model, "sgd", "mse", on_nonfinite="skip")


class EveryOther(looplab.Trainer):
    def train_step(self, batch):
        return self.minimize(self.compute_loss, batch, when=self.step % 2 == 1)


@pytest.mark.parametrize("execution", ["graph", "xla_step"])
def test_an_update_is_made_only_when_it_is_due(strategy, execution):
    dense = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])  # noqa: E731
    gated = EveryOther(dense, "adam", "mse", strategy=strategy, execution=execution)
    gated.fit(X, Y, **FIT, steps=4)  # updates from the batches 2 and 4
    picked = np.r_[8:16, 24:32]
    plain = looplab.Trainer(dense, "adam", "mse", strategy=strategy, execution=execution)
    plain.fit(X[picked], Y[picked], **FIT, steps=2)
    for left, right in zip(plain.model.get_weights(), gated.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert gated.optimizers["optimizer"].iterations.numpy() == 2


class Logarithm(looplab.Trainer):
    def compute_loss(self, batch, training):
        return tf.math.log(self.model(batch)[:, 0])


def test_the_operation_and_the_line_are_named():
    trainer = Logarithm(model, "sgd", callbacks=[looplab.callbacks.CheckNumerics()])
    with pytest.raises(looplab.DivergedError, match=r"'Log'(?s:.)*test_nonfinite.py:\d+ in compute_loss"):
        trainer.fit(X, **FIT)
    assert np.isnan(tf.math.log(tf.constant(-1.0)).numpy())  # nothing is checked any more
