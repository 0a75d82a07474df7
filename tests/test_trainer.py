"""What a person may pass to a Trainer, what comes back, and what is refused with which words."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy, on_two_replicas

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(22, 4)).astype("float32"), RNG.integers(0, 3, 22)


def dense():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, "softmax")

    def call(self, x):
        return self.dense(x)


def make(
    model=dense, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=("accuracy",), **options
):
    return looplab.Trainer(model, optimizer, loss, list(metrics), **options)


# --- names, factories, objects ---------------------------------------------------------------------


@pytest.mark.share(1)
@pytest.mark.parametrize("model", [dense, lambda: dense(), Subclassed, Subclassed(), dense()])
@pytest.mark.parametrize(
    "optimizer",
    ["adam", "AdamW", keras.optimizers.SGD, lambda: keras.optimizers.SGD(0.1), keras.optimizers.Lion(1e-3)],
)
def test_models_and_optimizers_come_as_factories_and_objects(model, optimizer):
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = optimizer.__class__.from_config(optimizer.get_config())
    if isinstance(model, keras.Model):
        model = model.__class__() if isinstance(model, Subclassed) else keras.models.clone_model(model)
    history = make(model, optimizer).fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert history.epoch == [0, 1]
    assert set(history.history) == {"loss", "accuracy", "learning_rate"}


@pytest.mark.share(1)
@on_two_replicas
@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.sparse_categorical_crossentropy,
        lambda y, p: -tf.math.log(tf.gather(p, tf.cast(y, tf.int32), batch_dims=1)),
    ],
)
def test_losses_come_as_names_objects_and_functions(loss, strategy):
    trainer = make(loss=loss, strategy=strategy)
    loss_before = trainer.evaluate(X, Y)["loss"]
    expected = -np.log(trainer.predict(X)[np.arange(22), Y]).mean()
    assert loss_before == pytest.approx(expected, rel=1e-5)


def is_first(y_true, y_pred):
    return tf.cast(y_true == 0, "float32")


@pytest.mark.share(1)
@on_two_replicas
@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("accuracy", "accuracy"),
        ("acc", "acc"),
        ("sparse_top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"),
        (keras.metrics.SparseCategoricalAccuracy(name="mine"), "mine"),
        (keras.metrics.SparseCategoricalAccuracy, "sparse_categorical_accuracy"),
        (is_first, "is_first"),
    ],
)
def test_metrics_come_as_names_objects_classes_and_functions(metric, name, strategy):
    trainer = make(metrics=[metric], strategy=strategy)
    value = trainer.evaluate(X, Y)[name]
    right = trainer.predict(X).argmax(-1) == Y
    expected = {"is_first": (Y == 0).mean(), "sparse_top_k_categorical_accuracy": 1.0}.get(name, right.mean())
    assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "outputs", "loss"),
    [("binary", 1, "binary_crossentropy"), ("one hot", 3, "categorical_crossentropy")],
)
def test_accuracy_means_the_one_that_fits_the_shapes(target, outputs, loss):
    y = (Y == 0).astype("float32") if target == "binary" else np.eye(3, dtype="float32")[Y]
    activation = "sigmoid" if outputs == 1 else "softmax"
    model = keras.Sequential([keras.layers.Dense(outputs, activation)])
    trainer = make(model, loss=loss)
    value = trainer.evaluate(X, y)["accuracy"]
    p = trainer.predict(X)
    right = (p[:, 0] > 0.5) == y if outputs == 1 else p.argmax(-1) == Y
    assert value == pytest.approx(right.mean())


@pytest.mark.slow
def test_an_object_made_outside_is_cloned_with_its_weights_or_refused():
    model = dense()
    trainer = make(model, strategy=make_strategy(2))
    np.testing.assert_array_equal(trainer.model.get_weights()[0], model.get_weights()[0])
    trainer.fit(X, Y, verbose=0)
    subclassed = Subclassed()
    subclassed(X)
    with pytest.raises(looplab.ConfigurationError, match=r"lambda: Subclassed\(\.\.\.\)"):
        make(subclassed, strategy=make_strategy(2))


# --- fit, evaluate, predict ------------------------------------------------------------------------


@pytest.mark.slow
@on_two_replicas
def test_data_comes_as_keras_takes_it(strategy):
    weights = np.ones(22, "float32")
    seen = []
    for arguments in (
        {"x": X, "y": Y},
        {"x": (X, Y)},
        {"x": (X, Y, weights)},
        {"x": X, "y": Y, "sample_weight": weights},
        {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), "batch_size": None},
    ):
        trainer = make(strategy=strategy)
        trainer.fit(**{"batch_size": 8, "shuffle": False, "verbose": 0, **arguments})
        seen.append(trainer.model.get_weights()[0])
    for other in seen[1:]:
        np.testing.assert_allclose(other, seen[0], atol=1e-6)


@pytest.mark.share(2)
@pytest.mark.parametrize("size", [1, 2, 7, 22])
@pytest.mark.promise(9)
def test_evaluation_counts_every_example_once_for_any_batch(size, strategy):
    trainer = make(strategy=strategy)
    p = trainer.predict(X[:size])
    loss = -np.log(p[np.arange(size), Y[:size]]).mean()
    right = (p.argmax(-1) == Y[:size]).mean()
    for batch in (1, 3, 5, 64):
        values = trainer.evaluate(X[:size], Y[:size], batch_size=batch)
        assert values == {"loss": pytest.approx(loss, rel=1e-5), "accuracy": pytest.approx(right)}


@on_two_replicas
def test_predictions_come_in_order_each_once(strategy):
    class Index(looplab.Trainer):
        def predict_step(self, batch):
            return {"row": batch[:, 0], "pair": tf.stack([batch[:, 0], batch[:, 0]], -1)}

    rows = np.arange(23, dtype="float32")[:, None]
    for batch in (1, 4, 5, 23, 64):
        predicted = Index(strategy=strategy).predict(rows, batch_size=batch)
        np.testing.assert_array_equal(predicted["row"], np.arange(23))
        assert predicted["pair"].shape == (23, 2)


@pytest.mark.slow
@on_two_replicas
def test_epochs_is_the_last_epoch_of_the_run(strategy):
    once, twice = make(strategy=strategy), make(strategy=strategy)
    whole = once.fit(X, Y, batch_size=8, epochs=5, verbose=0)
    twice.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert int(twice.step.numpy()) == 6
    assert twice.fit(X, Y, batch_size=8, epochs=2, verbose=0).epoch == [0, 1]  # those of the run
    assert int(twice.step.numpy()) == 6
    rest = twice.fit(X, Y, batch_size=8, epochs=5, verbose=0)
    assert rest.epoch == whole.epoch == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(once.model.get_weights()[0], twice.model.get_weights()[0])


def test_steps_may_end_within_an_epoch(tmp_path):
    trainer = make(run_dir=tmp_path)
    history = trainer.fit(X, Y, batch_size=8, steps=4, validation_data=(X, Y), verbose=0)
    assert int(trainer.step.numpy()) == 4 and history.epoch == [0, 1]
    assert "val_loss" in history.history


def test_without_a_run_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make().fit(X, Y, verbose=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@on_two_replicas
def test_evaluate_and_predict_use_the_newest_checkpoint(tmp_path, strategy):
    trained = make(run_dir=tmp_path, strategy=strategy)
    trained.fit(X, Y, verbose=0, epochs=3)
    fresh = make(run_dir=tmp_path, strategy=strategy, seed=8)
    np.testing.assert_array_equal(fresh.predict(X), trained.predict(X))
    assert fresh.evaluate(X, Y) == trained.evaluate(X, Y)


def test_a_finished_run_is_recognised_and_left_as_it_is(tmp_path, capsys):
    make(run_dir=tmp_path).fit(X, Y, batch_size=8, epochs=2, verbose=0)
    before = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.txt"
    }
    again = make(run_dir=tmp_path)
    history = again.fit(X, Y, batch_size=8, epochs=2, verbose=2)
    assert "nothing is left to do" in capsys.readouterr().out
    assert history.epoch == [0, 1]
    after = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.txt"
    }
    assert after == before


@on_two_replicas
def test_a_breakpoint_in_a_step_works_when_run_eagerly(strategy):
    seen = []

    class Looked(looplab.Trainer):
        def train_step(self, batch):
            if tf.executing_eagerly():
                seen.append(batch[0].numpy().shape)
            return super().train_step(batch)

    Looked(dense, "sgd", "sparse_categorical_crossentropy", strategy=strategy, run_eagerly=True).fit(
        X, Y, batch_size=11, verbose=0
    )
    assert sum(shape[0] for shape in seen) >= 22  # and once more to look at the step


@pytest.mark.share(1)
@on_two_replicas
@pytest.mark.parametrize("precision", ["float32", "float64", "mixed_bfloat16"])
def test_each_precision_trains_in_its_dtypes(precision, strategy):
    trainer = make(Subclassed, precision=precision, strategy=strategy)
    history = trainer.fit(X, Y, epochs=4, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert trainer.model.dense.compute_dtype == precision.removeprefix("mixed_")
    assert trainer.model.dense.kernel.dtype == ("float64" if precision == "float64" else "float32")


@on_two_replicas
def test_a_learning_rate_is_the_schedule_of_the_step_times_the_factor(strategy):
    class Halve(looplab.Callback):
        def on_epoch_end(self, event, controls):
            if event.epoch == 2:
                controls.scale_learning_rate(0.5)

    class TwoUpdates(looplab.Trainer):  # the optimizer counts four updates in two steps
        def train_step(self, batch):
            self.minimize(self.compute_loss, batch)
            return self.minimize(self.compute_loss, batch)

    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, decay_steps=10, end_learning_rate=0.0)
    trainer = TwoUpdates(
        dense, lambda: keras.optimizers.SGD(schedule), "sparse_categorical_crossentropy",
        strategy=strategy, callbacks=[Halve()],
    )  # fmt: skip
    rates = trainer.fit(X, Y, batch_size=11, epochs=4, verbose=0).history["learning_rate"]
    assert rates == pytest.approx([0.9, 0.7, 0.25, 0.15])  # of the last step of each epoch


def test_resume_never_refuses_a_run_but_not_its_own(tmp_path):
    trainer = make(run_dir=tmp_path, resume="never")
    trainer.fit(X, Y, batch_size=8, verbose=0)
    trainer.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert int(trainer.step.numpy()) == 6
    with pytest.raises(looplab.ConfigurationError, match="holds a run"):
        make(run_dir=tmp_path, resume="never").fit(X, Y, verbose=0)


def test_what_a_factory_raises_goes_through():
    def broken():
        raise ValueError("mine")

    for slot in ("model", "optimizer"):
        with pytest.raises(ValueError, match=r"^mine$"):
            make(**{slot: broken})


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": "adm"}, "adm.*Did you mean 'adam'"),
        ({"optimizer": 3}, "optimizer"),
        ({"model": 3}, "model 'model'.*3"),
        ({"model": lambda: 3}, "expected a keras.Model"),
        ({"loss": "mes"}, "loss: 'mes'"),
        ({"precision": "float23"}, "float23.*Did you mean 'float32'"),
        ({"precision": "float16"}, "mixed_float16"),
        ({"strategy": "simulted"}, "Did you mean 'simulated'"),
        ({"strategy": "mirrored"}, "GPUs"),
        ({"execution": "xla"}, "Did you mean 'xla_step'"),
        ({"steps_per_execution": 0}, "steps_per_execution.*0"),
        ({"micro_batches": 0}, "micro_batches.*0"),
        ({"seed": -1}, "seed.*-1"),
        ({"log_every": "often"}, "log_every.*often"),
        ({"log_every": "5min"}, "log_every.*clock"),
        ({"callbacks": [keras.callbacks.BackupAndRestore("here")]}, "BackupAndRestore.*resume"),
        ({"models": {"a": dense}}, "one of the two"),
        ({"optimizer": lambda: keras.optimizers.SGD(gradient_accumulation_steps=2)}, "micro_batches"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_a_remedy(options, says):
    with pytest.raises(looplab.ConfigurationError, match=f"(?s){says}"):
        make(**options)


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        ({"epochs": 2, "steps": 3}, "one of the two"),
        ({"epochs": 0}, "epochs.*0"),
        ({"x": None, "y": None}, "needs data"),
        ({"metrics": ["acuracy"]}, "acuracy"),
        ({"metrics": ["accuracy", "accuracy"]}, "two values"),
        ({"loss": None}, "has no loss"),
    ],
)
def test_a_fit_that_cannot_work_is_refused_before_it_starts(fit, says, tmp_path):
    options = {key: fit.pop(key) for key in ("metrics", "loss") if key in fit}
    with pytest.raises(looplab.ConfigurationError, match=f"(?s){says}"):
        make(run_dir=tmp_path / "run", **options).fit(**{"x": X, "y": Y, "verbose": 0, **fit})
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_no_step_uses_is_refused():
    trainer = looplab.Trainer(
        models={"a": dense, "b": dense},
        optimizers={"a": "sgd", "b": "sgd"},
        loss="sparse_categorical_crossentropy",
    )
    trainer.train_step = lambda batch: trainer.minimize(
        lambda b, training: trainer.models["a"](b[0])[:, 0], batch, "a"
    )
    with pytest.raises(looplab.ConfigurationError, match="'b' is never used"):
        trainer.fit(X, Y, verbose=0)


def test_minimize_outside_of_a_step_says_where_it_belongs():
    trainer = make()
    with pytest.raises(looplab.LossError, match="train_step"):
        trainer.minimize(trainer.compute_loss, (X, Y))


def test_a_trainer_of_its_own_data_must_say_how_long():
    class Made(looplab.Trainer):
        def make_batch(self, step):
            return X, Y

    trainer = Made(dense, "sgd", "sparse_categorical_crossentropy")
    with pytest.raises(looplab.ConfigurationError, match="steps="):
        trainer.fit(verbose=0)
    trainer.fit(steps=3, verbose=0)
    assert int(trainer.step.numpy()) == 3


@pytest.mark.parametrize(
    ("monitor", "validated", "words"),
    [
        ("val_acuracy", True, ["nothing produces 'val_acuracy'", "val_loss, val_mae, loss", "'val_"]),
        (
            "val_mae",
            False,
            ["nothing produces 'val_mae'", "loss, mae, learning_rate", "need validation data"],
        ),
        ("generator/loss", True, ["nothing produces"]),
    ],
)
def test_a_monitor_that_nothing_produces_is_refused_before_the_first_step(
    tmp_path, monitor, validated, words
):
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", ["mae"],
        checkpoint=looplab.CheckpointPolicy(monitor=monitor), run_dir=tmp_path / "run",
    )  # fmt: skip
    x = np.ones((4, 2), "float32")
    data = (x, x[:, :1])
    with pytest.raises(looplab.ConfigurationError, match=r"checkpoint.monitor") as caught:
        trainer.fit(data, validation_data=data if validated else None, verbose=0)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
    assert not (tmp_path / "run").exists()


def test_every_value_of_an_epoch_may_be_monitored():
    x = np.ones((4, 2), "float32")
    for monitor in ("loss", "mae", "val_loss", "val_mae", "learning_rate"):
        trainer = looplab.Trainer(
            lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", ["mae"],
            checkpoint=looplab.CheckpointPolicy(monitor=monitor), run_eagerly=True,
        )  # fmt: skip
        history = trainer.fit((x, x[:, :1]), validation_data=(x, x[:, :1]), verbose=0)
        assert monitor in history.history


def test_a_variable_that_no_checkpoint_would_hold_is_not_trained():
    scale = tf.Variable(1.0, name="scale")

    class Lost(looplab.Trainer):
        def train_step(self, batch):
            variables = [*self.model.trainable_variables, scale]
            return self.minimize(self.compute_loss, batch, variables=variables)

        def compute_loss(self, batch, training):
            return tf.reduce_sum(self.model(batch[0], training=training) * scale, axis=-1)

    with pytest.raises(
        looplab.ConfigurationError, match=r"trains scale:0, which is in no model.*self\.scale ="
    ):
        Lost(dense, "sgd").fit((X, Y), verbose=0)
    assert scale.numpy() == 1.0
    kept = Lost(dense, "sgd")
    kept.scale = {"mine": scale}
    kept.fit((X, Y), verbose=0)
    assert scale.numpy() != 1.0


def test_a_trainer_shows_itself_in_a_line_and_on_a_page(tmp_path):
    class Own(looplab.Trainer):
        def __init__(self, *args, **kwargs):
            self.early = repr(self), self._repr_html_()
            super().__init__(*args, **kwargs)

    layers = [keras.Input((3,)), keras.layers.Dense(1)]
    trainer = Own(lambda: keras.Sequential(layers), "adam", "mse", run_dir=tmp_path / "a<b")
    assert trainer.early == ("<Own, not made yet>", None)
    at = f"run {tmp_path / 'a<b'}"
    assert repr(trainer) == f"<Own: model Sequential (4 parameters), optimizer Adam, {at}>"
    trainer.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, epochs=2, verbose=0)
    assert re.fullmatch(rf"<Own: .*, step 4, best loss \S+ \(epoch \d\), {re.escape(at)}>", repr(trainer))
    assert "<svg" in trainer._repr_html_() and "a&lt;b" in trainer._repr_html_()
    unbuilt = looplab.Trainer(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse")
    assert repr(unbuilt) == "<Trainer: model Sequential (not built yet), optimizer SGD, run not recorded>"
