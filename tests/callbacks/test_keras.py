"""Keras callbacks, unchanged, against what they do under `model.fit` on the same data."""

import csv
import json

import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
from omegaconf import OmegaConf

import looplab
from looplab import config, experiment
from tests.conftest import make_strategy

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(22, 3)).astype("float32")  # 3 steps an epoch, the last one short
Y = X[:, :1]
XV = RANDOM.normal(size=(10, 3)).astype("float32")
YV = 0.5 * XV[:, :1] - 0.3  # is fitted best on the way to another solution
STEPS = 3


def model():
    keras.utils.set_random_seed(5)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")])
    made.set_weights([np.zeros((3, 1), "float32"), np.zeros(1, "float32")])
    return made


def with_keras(callbacks, epochs, rate=0.05):
    made = model()
    made.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"], jit_compile=False)
    made.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        validation_data=(XV, YV),
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return made


def make(callbacks=(), rate=0.05, **options):
    return looplab.Trainer(
        model(), keras.optimizers.SGD(rate), "mse", ["mae"], callbacks=callbacks, **options
    )


def fit(trainer, epochs, **options):
    data = {"x": (X, Y), "validation_data": (XV, YV), "batch_size": 8, "shuffle": False, "verbose": 0}
    return trainer.fit(**data, epochs=epochs, **options)


def with_looplab(callbacks, epochs, rate=0.05, **options):
    trainer = make(callbacks, rate, **options)
    fit(trainer, epochs)
    return trainer.model


def same_weights(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


def same_file_of_weights(one, other):
    models = model(), model()
    for made, path in zip(models, (one, other), strict=True):
        made.load_weights(path)
    same_weights(*models)


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def same_csv(one, other):
    first, second = rows(one), rows(other)
    assert [list(row) for row in first] == [list(row) for row in second]
    for a, b in zip(first, second, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=1e-5
        )


class Watch(keras.callbacks.Callback):
    """Notes every hook of training, as a callback of somebody's own may."""

    def __init__(self):
        super().__init__()
        self.seen, self.rates = [], []

    def on_train_begin(self, logs=None):
        self.seen.append(("train begins", self.params["epochs"], self.params["steps"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch begins", epoch))
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_test_begin(self, logs=None):
        self.seen.append(("test begins",))

    def on_test_end(self, logs=None):
        self.seen.append(("test ends", sorted(logs)))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("epoch ends", epoch, sorted(logs)))

    def on_train_end(self, logs=None):
        self.seen.append(("train ends", sorted(logs)))


def same_epochs(one, other):
    assert one.seen == other.seen
    np.testing.assert_array_equal(np.float32(one.rates), np.float32(other.rates))


# --- the same as under model.fit --------------------------------------------------------------------


@pytest.mark.slow
def test_what_watches_and_stops(tmp_path):
    """EarlyStopping and its weights, ModelCheckpoint, CSVLogger, LambdaCallback, TensorBoard and others."""
    found = {}
    for name, run in (("keras", with_keras), ("looplab", with_looplab)):
        told, watch, folder = [], Watch(), tmp_path / name
        stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        callbacks = [
            stop,
            keras.callbacks.ModelCheckpoint(
                folder / "best{epoch:02d}.weights.h5", save_best_only=True, save_weights_only=True
            ),
            keras.callbacks.ModelCheckpoint(folder / "whole.keras"),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs, told=told: told.append((epoch, sorted(logs)))
            ),
            keras.callbacks.TensorBoard(folder / "board", histogram_freq=2),
            watch,
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ]
        folder.mkdir()
        found[name] = run(callbacks, 30, rate=0.02), stop, watch, told, folder
    (model_k, stop_k, watch_k, told_k, k), (model_l, stop_l, watch_l, told_l, folder) = found.values()
    assert stop_l.stopped_epoch == stop_k.stopped_epoch > 3
    assert stop_l.best_epoch == stop_k.best_epoch
    same_weights(model_l, model_k)  # the best ones are back
    same_epochs(watch_l, watch_k)
    assert told_l == told_k
    same_csv(folder / "log.csv", k / "log.csv")
    files = sorted(p.name for p in k.glob("*.h5"))
    assert [p.name for p in sorted(folder.glob("*.h5"))] == files and len(files) > 2
    for name in files:
        same_file_of_weights(folder / name, k / name)
    same_weights(*(keras.models.load_model(f / "whole.keras", compile=False) for f in (folder, k)))
    assert scalars(folder / "board") == pytest.approx(scalars(k / "board"), rel=1e-5)
    assert "optimizer" not in vars(model_l)


def scalars(folder):
    found = {}
    for file in sorted(folder.glob("*/events*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found[file.parent.name, value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    assert found
    return found


@pytest.mark.slow
def test_what_sets_the_learning_rate(tmp_path):
    """ReduceLROnPlateau and LearningRateScheduler: factors on the schedule, the very same numbers."""
    found = {}
    for name, run in (("keras", with_keras), ("looplab", with_looplab)):
        watch = Watch()
        callbacks = [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch < 4 else rate * 0.9),
            keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=2, cooldown=1, min_lr=1e-4),
            watch,
            keras.callbacks.CSVLogger(tmp_path / f"{name}.csv"),
        ]
        found[name] = run(callbacks, 12, rate=0.1), watch
    same_epochs(found["looplab"][1], found["keras"][1])
    assert len(set(found["keras"][1].rates)) > 6
    same_csv(tmp_path / "looplab.csv", tmp_path / "keras.csv")
    assert "learning_rate" in rows(tmp_path / "looplab.csv")[0]
    same_weights(found["looplab"][0], found["keras"][0])


class EachBatch(keras.callbacks.Callback):
    """Notes every batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(("begins", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("ends", batch, *(round(logs[name], 4) for name in sorted(logs))))


@pytest.mark.slow
def test_what_acts_on_batches(tmp_path, monkeypatch, capsys):
    """ModelCheckpoint by batches, batch hooks with running means, RemoteMonitor, TerminateOnNaN, History."""
    sent = []
    monkeypatch.setattr(requests, "post", lambda url, data, headers: sent.append(json.loads(data["data"])))
    found = {}
    for name, run in (("keras", with_keras), ("looplab", with_looplab)):
        batches, folder, history = EachBatch(), tmp_path / name, keras.callbacks.History()
        sent = []
        callbacks = [
            keras.callbacks.ModelCheckpoint(
                folder / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=2
            ),
            batches,
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.RemoteMonitor(),
            history,
        ]
        found[name] = run(callbacks, 3), batches, sent, folder, history
    (_, batches_k, sent_k, k, history_k), (_, batches_l, sent_l, folder, history_l) = found.values()
    assert batches_l.seen == batches_k.seen and len(batches_k.seen) == 2 * 3 * STEPS
    assert len(sent_l) == 3
    for a, b in zip(sent_l, sent_k, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    files = sorted(p.name for p in k.iterdir())
    assert sorted(p.name for p in folder.iterdir()) == files and len(files) == 4
    for name in files:
        same_file_of_weights(folder / name, k / name)
    assert sorted(history_l.history) == sorted(history_k.history)
    assert history_l.history["val_mae"] == pytest.approx(history_k.history["val_mae"], rel=1e-5)
    said = capsys.readouterr().out
    assert said == ""  # verbose=0


@pytest.mark.share(1)
@pytest.mark.parametrize("policy", ["ignore", "stop"])
def test_terminate_on_nan_ends_the_run_at_its_batch(policy, capsys):
    """As under `model.fit`, whose history has the epoch; looplab's own watch has undone the bad step."""
    bad = np.where(np.arange(22) == 10, np.inf, 1.0)[:, None].astype("float32") * Y
    data = {"batch_size": 8, "shuffle": False, "epochs": 4, "verbose": 0}
    made = model()
    made.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"], jit_compile=False)
    expected = made.fit(X, bad, callbacks=[keras.callbacks.TerminateOnNaN()], **data).history
    trainer = make([keras.callbacks.TerminateOnNaN()], on_nonfinite=policy)
    found = trainer.fit((X, bad), validation_data=(XV, YV), **data).history
    assert int(trainer.step.numpy()) == (2 if policy == "ignore" else 1)
    assert found.get("loss", []) == (expected["loss"] if policy == "ignore" else [])
    assert len(found.get("val_loss", [])) == len(found.get("loss", []))
    assert capsys.readouterr().out.count("Batch 1: Invalid loss, terminating training") == 2
    strict = make([keras.callbacks.TerminateOnNaN(raise_error=True)], on_nonfinite=policy)
    with pytest.raises(RuntimeError, match="NaN or Inf loss encountered at batch 1"):
        strict.fit((X, bad), **data)


# --- how it is said and refused -----------------------------------------------------------------------


def test_what_acts_on_batches_is_said_and_has_steps_run_one_by_one(capsys):
    class OnTest(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            pass

    quiet = [
        keras.callbacks.ModelCheckpoint("never.keras"),
        keras.callbacks.TensorBoard("never"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=print),
    ]
    assert [looplab.callbacks.Keras(callback).every for callback in quiet] == [None] * 4
    assert [note for callback in quiet for note in looplab.callbacks.Keras(callback).plan(None)] == []
    acting = [
        keras.callbacks.ModelCheckpoint("never.keras", save_freq=5),
        keras.callbacks.TensorBoard("never", update_freq=10),
        keras.callbacks.LambdaCallback(on_train_batch_begin=print),
        EachBatch(),
    ]
    assert [looplab.callbacks.Keras(callback).every for callback in acting] == [1] * 4
    lines = dict(make([EachBatch(), OnTest()]).rehearse((X, Y), batch_size=8).lines)
    assert "EachBatch" in lines["callback"] or "OnTest" in lines["callback"]
    notes = [note for _, note in looplab.callbacks.CallbackList([EachBatch(), OnTest()]).plan(None)]
    assert notes == [
        "one step per execution because of EachBatch.on_train_batch_begin",
        "one batch of an evaluation per execution because of OnTest.on_test_batch_end",
    ]
    make([EachBatch()]).fit((X, Y), batch_size=8, epochs=1, verbose=2)
    assert notes[0] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (lambda: keras.callbacks.BackupAndRestore("never"), "BackupAndRestore is not .* resume replaces it"),
        (lambda: keras.callbacks.ProgbarLogger(), "shows progress itself"),
        (lambda: keras.callbacks.CallbackList([]), "one by one"),
        (lambda: keras.callbacks.CSVLogger, "expected a looplab.Callback or a keras.callbacks.Callback"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(callback, words):
    with pytest.raises(looplab.ConfigurationError, match=words):
        make([callback()])


def test_the_averaged_weights_need_no_swap_but_an_optimizer_that_has_them():
    trainer = make([keras.callbacks.SwapEMAWeights()])
    with pytest.raises(looplab.ConfigurationError, match="must be used when `use_ema=True` is set"):
        fit(trainer, 1)


class Pair(looplab.Trainer):
    """Two models that learn the same."""

    def train_step(self, batch):
        return {
            **self.minimize(lambda batch, training: self.loss_of("a", batch), batch, "a"),
            **self.minimize(lambda batch, training: self.loss_of("b", batch), batch, "b"),
        }

    def loss_of(self, name, batch):
        return tf.reduce_mean(tf.square(self.models[name](batch[0]) - batch[1]), axis=-1)


def pair(callback):
    rates = {"a": lambda: keras.optimizers.SGD(0.1), "b": lambda: keras.optimizers.SGD(0.2)}
    return Pair(models={"a": model, "b": model}, optimizers=rates, callbacks=[callback])


def make_averaged(*callbacks, **options):
    def optimizer():
        return keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)

    return looplab.Trainer(model(), optimizer, "mse", ["mae"], callbacks=callbacks, **options)


@pytest.mark.slow
def test_the_best_weights_that_come_back_are_those_that_were_evaluated(tmp_path):
    stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    trainer = make_averaged(stopping, run_dir=tmp_path)
    losses = fit(trainer, 20).history["val_loss"]
    assert min(losses) < losses[-1]
    for restored in (trainer, make_averaged(run_dir=tmp_path)):
        values = restored.evaluate((XV, YV), batch_size=8)
        assert values["loss"] == values["raw_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_swap_at_ends_of_epochs_shows_every_callback_the_averages(tmp_path):
    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.seen = self.model.get_weights()

    trainer = make_averaged(keras.callbacks.SwapEMAWeights(swap_on_epoch=True), Looks())
    fit(trainer, 2)
    looks = trainer._preparation.callbacks[1]._callback
    with trainer.averaged_weights():
        np.testing.assert_array_equal(looks.seen[0], trainer.model.get_weights()[0])
    assert not np.array_equal(looks.seen[0], trainer.model.get_weights()[0])


def test_model_checkpoint_keeps_the_weights_that_were_evaluated(tmp_path):
    path = str(tmp_path / "best.weights.h5")
    trainer = make_averaged(
        keras.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
    )
    trained = fit(trainer, 2)
    best = model()
    best.load_weights(path)
    with trainer.averaged_weights():
        assert np.argmin(trained.history["val_loss"]) == 1
        same_weights(best, trainer.model)
    assert not np.allclose(best.get_weights()[0], trainer.model.get_weights()[0])


@pytest.mark.slow
def test_a_monitor_that_nothing_produces_is_refused_before_the_first_step():
    said = r"EarlyStopping\.monitor: nothing produces 'val_los'; there are val_loss.*mean 'val_loss'"
    with pytest.raises(looplab.ConfigurationError, match=said):
        fit(make([keras.callbacks.EarlyStopping("val_los")]), 1)
    with pytest.raises(looplab.ConfigurationError, match=r"ModelCheckpoint\.monitor.*'val_acc'"):
        path = "best.keras"
        fit(make([keras.callbacks.ModelCheckpoint(path, monitor="val_acc", save_best_only=True)]), 1)
    fit(make([keras.callbacks.ReduceLROnPlateau("mae"), keras.callbacks.EarlyStopping("val_mae")]), 1)


def test_a_monitor_that_another_callback_may_write_is_only_warned_of(caplog):
    class Writes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_own"] = -epoch

    stopping = keras.callbacks.EarlyStopping("val_own", mode="max", patience=1)
    trainer = make([Writes(), stopping])
    fit(trainer, 9)
    assert int(trainer.step.numpy()) == 2 * STEPS
    assert "EarlyStopping.monitor: nothing produces 'val_own'; there are val_loss" in caplog.text


def test_of_several_models_a_callback_is_told_of_one():
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    trainer = pair(looplab.callbacks.Keras(halve, model="b"))
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    assert halve.model is trainer.models["b"]
    assert float(trainer.optimizers["a"].learning_rate) == pytest.approx(0.1)
    assert float(trainer.optimizers["b"].learning_rate) == pytest.approx(0.05)
    for callback, words in (
        (halve, r"Keras\(LearningRateScheduler\(\.\.\.\), model=NAME\)"),
        (looplab.callbacks.Keras(halve, model="c"), "there is no model 'c'"),
    ):
        with pytest.raises(looplab.ConfigurationError, match=words):
            pair(callback).fit((X, Y), batch_size=8, epochs=1, verbose=0)


@pytest.mark.slow
def test_a_configuration_names_callbacks_of_keras(tmp_path):
    """Their files stand in the run directory; tests/config/hostile.yaml has what is refused."""
    source = {"_target_": "looplab.data.digits"}
    composed = {
        "epochs": 1,
        "data": {"source": source, "batch_size": 1500},
        "model": {"_target_": "looplab.models.ConvNet", "classes": 10, "filters": [1]},
        "optimizer": "sgd",
        "loss": {"_target_": "keras.losses.SparseCategoricalCrossentropy", "from_logits": True},
        "callbacks": {
            "log": {"_target_": "keras.callbacks.CSVLogger", "filename": "log.csv"},
            "keep": {
                "_target_": "keras.callbacks.ModelCheckpoint",
                "filepath": "{epoch:02d}-{val_loss:.2f}.keras",
            },
            "board": {"_target_": "keras.callbacks.TensorBoard"},
            "stop": {"_target_": "keras.callbacks.EarlyStopping", "patience": 3},
        },
    }
    checked = config.check(OmegaConf.create(composed))
    trainer, data = experiment.build(checked, tmp_path)
    trainer.fit(data["train"], validation_data=data["validation"], batch_size=1500, epochs=1, verbose=0)
    assert [row["epoch"] for row in rows(tmp_path / "callbacks" / "log.csv")] == ["0"]
    assert len(list((tmp_path / "callbacks").glob("01-*.keras"))) == 1
    assert scalars(tmp_path / "callbacks" / "logs")


# --- restarts -----------------------------------------------------------------------------------------


class Crash(looplab.Callback):
    """Ends the process, as far as a test can, at a step or at the end of an epoch."""

    def __init__(self, step=None, epoch=None):
        self.step, self.epoch = step, epoch

    def on_step(self, event, controls):
        if event.step == self.step:
            raise OSError("crash")

    def on_epoch_end(self, event, controls):
        if event.epoch == self.epoch:
            raise OSError("crash")


class Drifting(keras.callbacks.Callback):
    """Changes what must not be changed twice, and has fields of all kinds."""

    def on_train_begin(self, logs=None):
        self.handle = open(__file__, "rb")  # noqa: SIM115
        self.model.layers[0].bias.assign_add([1.0])
        self.sums, self.best = np.zeros(3), None

    def on_epoch_begin(self, epoch, logs=None):
        self.handle.seek(0)
        self.epochs = (*getattr(self, "epochs", ()), epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.sums[batch] += logs["loss"]

    def on_epoch_end(self, epoch, logs=None):
        self.best = {"loss": np.float32(logs["loss"]), "seen": {epoch}}

    def on_train_end(self, logs=None):
        self.handle.close()


@pytest.mark.promise(17)
def test_interruptions_change_nothing(tmp_path, caplog):
    def start(name, crash):
        callbacks = [
            keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.95),
            keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.7),
            Drifting(),
            keras.callbacks.CSVLogger(tmp_path / f"{name}.csv"),
        ]
        policy = looplab.CheckpointPolicy(every="2st", verify=name == "whole")
        trainer = make([*callbacks, crash], run_dir=tmp_path / name, checkpoint=policy)
        try:
            fit(trainer, 30)
        except OSError:
            return None
        return trainer, callbacks[0], callbacks[3]

    whole, stop, drift = start("whole", Crash())
    assert stop.stopped_epoch >= 5
    assert start("cut", Crash(step=11)) is None  # in an epoch
    assert start("cut", Crash(epoch=5)) is None  # when the CSV file has its line already
    cut, stopped, drifted = start("cut", Crash())
    assert stopped.stopped_epoch == stop.stopped_epoch and stopped.best_epoch == stop.best_epoch
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for a, b in zip(cut.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(drifted.sums, drift.sums)
    assert (drifted.best, drifted.epochs) == (drift.best, drift.epochs)
    last = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    kernel = looplab.checkpoint.read(last)["models/model/dense/kernel"]
    np.testing.assert_array_equal(kernel, cut.model.get_weights()[0])  # the best weights are in it
    warnings = [r.getMessage() for r in caplog.records if "cannot be saved" in r.getMessage()]
    assert len(warnings) == 4 and all("Drifting.handle" in message for message in warnings)


@pytest.mark.slow
def test_a_second_fit_goes_on_and_a_rate_may_be_set_between():
    stop = keras.callbacks.EarlyStopping(patience=2)
    trainer = make([stop], strategy=make_strategy(2))
    fit(trainer, 2)
    best = stop.best
    trainer.optimizers["optimizer"].learning_rate = 0.01
    fit(trainer, 3)
    assert stop.best <= best and len(stop.model.get_weights()) == 2
    assert float(trainer.optimizers["optimizer"].learning_rate) == np.float32(0.01)


@pytest.mark.slow
def test_what_has_stopped_a_run_stops_it_again_unless_more_is_asked(tmp_path):
    def train(epochs, patience=1):
        stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience)
        trainer = make([stopping], rate=0.3, run_dir=tmp_path)
        fit(trainer, epochs)
        return int(trainer.step.numpy()), json.loads((tmp_path / "outcome.json").read_text())["reason"]

    step, reason = train(30)
    assert step < 30 * STEPS and reason == "EarlyStopping set model.stop_training"
    assert train(30) == (step, "EarlyStopping has set model.stop_training before")
    longer, _ = train(30, patience=3)
    assert longer > step
    assert train(31, patience=3)[0] > longer
