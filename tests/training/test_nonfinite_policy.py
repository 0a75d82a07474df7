"""A loss or gradient that is not finite: the update is not made, the run ends, saved as it was before."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from looplab.loggers import read_records
from tests.conftest import make_strategy

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


def cells(ordinary, slow):
    """Parameters `replicas` and `execution`; those of `slow` are no part of the ordinary suite."""
    names = [f"{replicas}-{execution}" for replicas, execution in ordinary + slow]
    values = ordinary + [pytest.param(*cell, marks=pytest.mark.slow) for cell in slow]
    return pytest.mark.parametrize(("replicas", "execution"), values, ids=names)


def way(replicas, execution):
    how = {"run_eagerly": True} if execution == "eager" else {"execution": execution}
    return {"strategy": make_strategy(replicas), **how}


# BatchNormalization over replicas does not compile in XLA; on one device the next test is of XLA.
@pytest.mark.share(1)
@cells([(2, "graph"), (1, "eager")], [(1, "graph"), (2, "eager"), (1, "xla_step"), (1, "xla_loop")])
def test_the_state_is_that_before_the_bad_step(replicas, execution, tmp_path):
    common = {"steps_per_execution": 4, **way(replicas, execution)}
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("execution", "bad"),
    [
        ("xla_step", 0),
        ("xla_loop", 39),
        pytest.param("xla_step", 39, marks=pytest.mark.slow),
        pytest.param("xla_loop", 0, marks=pytest.mark.slow),
        pytest.param("xla_step", 20, marks=pytest.mark.slow),
        pytest.param("xla_loop", 20, marks=pytest.mark.slow),
    ],
)
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
    if bad // 8:
        good = looplab.Trainer(model, "adam", "mse", ["mae"], **whole)
        good.fit(X, Y, **FIT, steps=bad // 8)
        assert_equal(arrays, everything(good))
    else:
        assert arrays["loop/step"] == 0


class InfiniteGradient(looplab.Trainer):
    def compute_loss(self, batch, training):
        return tf.sqrt(tf.nn.relu(self.model(batch)[:, 0] * 0.0))  # 0, whose gradient is infinite times 0


def test_a_gradient_alone_is_enough():
    trainer = InfiniteGradient(model, "sgd", strategy=make_strategy(2))
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


@pytest.mark.share(1)
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


@pytest.mark.slow
def test_what_was_infinite_before_stops_nothing():
    dense = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])  # noqa: E731
    common = {"optimizer": "adam", "steps_per_execution": 5}
    graph, whole = (Limited(dense, **common, execution=mode) for mode in ("graph", "xla_loop"))
    for trainer in (graph, whole):
        trainer.fit(X, Y, **FIT, epochs=3)
    for left, right in zip(graph.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)
    assert not whole._engine.loops.of("train")._undoing.traces  # looked at once, and in vain


class Twice(looplab.Trainer):
    """Of two updates in a step the second fails."""

    def train_step(self, batch):
        first = self.minimize(lambda x, training: (self.model(x)[:, 0] - 1.0) ** 2, batch[0])
        second = self.minimize(self.compute_loss, batch)
        return {"first": first["loss"], "loss": second["loss"]}


@pytest.mark.slow
def test_of_several_updates_in_a_step_none_remains():
    good, trainer = (Twice(model, "adam", "mse", strategy=make_strategy(2)) for _ in range(2))
    good.fit(X, Y, **FIT, steps=2)
    with pytest.raises(looplab.DivergedError, match="in step 3: loss is nan"):
        trainer.fit(X, BAD, **FIT, epochs=2)
    assert_equal(everything(good), everything(trainer))


def test_ignore_goes_on(caplog):
    trainer = looplab.Trainer(model, "sgd", "mse", on_nonfinite="ignore")
    trainer.fit(X, BAD, **FIT, epochs=1)
    assert int(trainer.step.numpy()) == 5
    assert caplog.text.count("the loss is not finite at step 3") == 1
    with pytest.raises(looplab.ConfigurationError, match=r"on_nonfinite: 'skipp'.*Did you mean 'skip'"):
        looplab.Trainer(model, "sgd", "mse", on_nonfinite="skipp")


class EveryOther(looplab.Trainer):
    def train_step(self, batch):
        return self.minimize(self.compute_loss, batch, when=self.step % 2 == 1)


@pytest.mark.slow
@cells([(2, "graph"), (1, "xla_step")], [(1, "graph"), (2, "xla_step")])
def test_an_update_is_made_only_when_it_is_due(replicas, execution):
    dense = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])  # noqa: E731
    gated = EveryOther(dense, "adam", "mse", **way(replicas, execution))
    gated.fit(X, Y, **FIT, steps=4)  # updates from the batches 2 and 4
    picked = np.r_[8:16, 24:32]
    plain = looplab.Trainer(dense, "adam", "mse", **way(replicas, execution))
    plain.fit(X[picked], Y[picked], **FIT, steps=2)
    for left, right in zip(plain.model.get_weights(), gated.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert gated.optimizers["optimizer"].iterations.numpy() == 2


class Logarithm(looplab.Trainer):
    def compute_loss(self, batch, training):
        return tf.math.log(self.model(batch)[:, 0])


def test_the_operation_and_the_line_are_named():
    trainer = Logarithm(model, "sgd", callbacks=[looplab.callbacks.CheckNumerics()])
    with pytest.raises(
        looplab.DivergedError, match=r"'Log'(?s:.)*test_nonfinite_policy.py:\d+ in compute_loss"
    ):
        trainer.fit(X, **FIT)
    assert np.isnan(tf.math.log(tf.constant(-1.0)).numpy())  # nothing is checked any more


@pytest.mark.share(1)
@pytest.mark.fault(53)
@pytest.mark.parametrize("execution", ["graph", pytest.param("xla_step", marks=pytest.mark.slow), "xla_loop"])
def test_a_skipped_step_changes_nothing_but_the_count(execution, tmp_path, caplog):
    """The run is that over data without the bad batch, but for when its steps are counted."""
    common = {"execution": execution, "steps_per_execution": 4, "on_nonfinite": "skip", "log_every": 1}
    trainer = looplab.Trainer(model, "adam", "mse", ["mae"], **common, run_dir=tmp_path / "bad")
    trainer.fit(X, BAD, **FIT, epochs=1)
    assert int(trainer.step.numpy()) == 5
    kept = np.r_[0:16, 24:40]
    good = looplab.Trainer(model, "adam", "mse", ["mae"], **common)
    good.fit(X[kept], Y[kept], **FIT, epochs=1)
    for left, right in zip(good.model.get_weights(), trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert "step 3 is skipped (1 of at most 10 times): loss is nan" in caplog.text
    records = list(read_records(tmp_path / "bad" / "metrics.jsonl"))
    own = {r.step: r.values["loss"] for r in records if "loss" in r.values}
    assert sorted(own) == [1, 2, 3, 4, 5] and [s for s in own if not np.isfinite(own[s])] == [3]
    epoch = next(r for r in records if "epoch_loss" in r.values)
    assert epoch.values["epoch_loss"] == pytest.approx(np.mean([own[s] for s in (1, 2, 4, 5)]), rel=1e-6)


@pytest.mark.share(1)
@pytest.mark.parametrize("stream", [False, True])
def test_the_bad_step_is_kept_with_its_batch(stream, tmp_path):
    trainer = looplab.Trainer(model, "adam", "mse", run_dir=tmp_path)
    data = tf.data.Dataset.from_tensor_slices((X, BAD)).batch(8)
    with pytest.raises(looplab.DivergedError):
        trainer.fit(data, verbose=0) if stream else trainer.fit(X, BAD, **FIT)
    folder = tmp_path / "bad_steps" / "step-00000003"
    kept = looplab.checkpoint.read(folder)
    np.testing.assert_array_equal(kept["batch/0"], X[16:24])
    np.testing.assert_array_equal(kept["batch/1"], BAD[16:24])
    assert_equal({k: v for k, v in kept.items() if not k.startswith("batch/")}, everything(trainer))
    facts = looplab.checkpoint.read_manifest(folder)
    assert facts["values"] == {"loss": "nan"}
    assert facts["examples"] == (None if stream else list(range(16, 24)))


@pytest.mark.fault(53)
def test_skipping_has_an_end_which_a_restart_does_not_move(tmp_path):
    bad = np.full_like(Y, np.nan)
    how = {"on_nonfinite": "skip", "run_dir": tmp_path, "checkpoint": looplab.CheckpointPolicy(every=1)}
    first = looplab.Trainer(model, "adam", "mse", **how)
    first.fit(X, bad, **FIT, steps=7)
    again = looplab.Trainer(model, "adam", "mse", **how)
    with pytest.raises(looplab.DivergedError, match=r"in step 11: .*10 such steps failed before"):
        again.fit(X, bad, **FIT, epochs=9)


class Unstable(looplab.Trainer):
    """Fails at step 8 as long as its rate is what it was."""

    def train_step(self, batch):
        rate = self.optimizers["optimizer"].learning_rate
        bad = tf.logical_and(self.step >= 7, tf.convert_to_tensor(rate) > 0.06)

        def loss(batch, training):
            spoilt = tf.where(bad, np.float32(np.nan), 0.0) * batch[0][:, 0]
            return {"own": self.compute_loss(batch, training), "spoilt": spoilt}

        return self.minimize(loss, batch)


@pytest.mark.slow
@pytest.mark.fault(53)
def test_a_rollback_trains_again_from_the_checkpoint_with_half_the_rate(tmp_path, caplog):
    policy = looplab.CheckpointPolicy(every="3st")
    how = {"on_nonfinite": "rollback", "checkpoint": policy, "log_every": 1}
    optimizer = lambda: keras.optimizers.SGD(0.2)  # noqa: E731
    trainer = Unstable(model, optimizer, "mse", run_dir=tmp_path / "one", **how)
    trainer.fit(X, Y, **FIT, epochs=2)
    assert "step 8 failed (1 of at most 10 times): spoilt is nan, loss is nan" in caplog.text
    assert "back at step 6, with half the learning rate" in caplog.text
    assert "back at step 6" in caplog.text.split("2 of at most")[1]
    assert float(trainer._engine.variables["loop/learning_rate_factor/optimizer"]) == 0.25
    own = [r for r in read_records(tmp_path / "one" / "metrics.jsonl") if "loss" in r.values]
    assert [r.step for r in own] == list(range(1, 11))  # each once
    assert all(np.isfinite(r.values["loss"]) for r in own)

    # The same as a run that was slower from step 6 on.
    class Slower(looplab.Callback):
        every = "6st"

        def on_step(self, event, controls):
            if event.step == 6:
                controls.scale_learning_rate(0.25)

    steady = Unstable(model, optimizer, "mse", callbacks=[Slower()], run_dir=tmp_path / "two")
    steady.fit(X, Y, **FIT, epochs=2)
    for left, right in zip(steady.model.get_weights(), trainer.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.fault(53)
def test_going_back_has_an_end(tmp_path):
    bad = {"on_nonfinite": "rollback", "run_dir": tmp_path}
    trainer = looplab.Trainer(model, "adam", "mse", **bad)
    with pytest.raises(looplab.DivergedError, match=r"in step 3: .*10 such steps failed before"):
        trainer.fit(X, BAD, **FIT)
    with pytest.raises(looplab.ConfigurationError, match="without a run_dir there is none"):
        looplab.Trainer(model, "adam", "mse", on_nonfinite="rollback")


@pytest.mark.share(1)
@pytest.mark.promise(41)  # a whole loop in XLA runs on one device
@cells(
    [(2, "graph"), (1, "eager"), (1, "xla_loop")],
    [(1, "graph"), (2, "eager"), (1, "xla_step"), (2, "xla_step")],
)
def test_a_skipped_step_has_no_share_in_any_mean(replicas, execution, tmp_path):
    class Own(looplab.Trainer):
        def train_step(self, batch):
            return {**self.minimize(self.compute_loss, batch), "targets": tf.reduce_mean(batch[1])}

    def penalized():
        dense = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5))
        return keras.Sequential([keras.Input((3,)), dense])

    def means(y, rows, **options):
        own = {"strategy": make_strategy(replicas), **options}
        trainer = Own(penalized, lambda: keras.optimizers.SGD(0.0), "mse", ["mae"], **own)
        how = {"batch_size": 8, "shuffle": False, "verbose": 0}
        return trainer.fit(X[rows], y[rows], **how).history

    good = np.r_[0:16, 24:40]  # without the third batch
    found = means(BAD, np.r_[0:40], on_nonfinite="skip", run_dir=tmp_path, **way(replicas, execution))
    for name, (value,) in means(Y, good).items():
        np.testing.assert_allclose(found[name], [value], rtol=1e-5, err_msg=name)
