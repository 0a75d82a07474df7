"""A run that goes on elsewhere: what may change is said, what may not is refused by name."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from looplab.data import stream
from looplab.runs import crash_report
from looplab.training import schedule_settings
from tests.conftest import make_strategy
from tests.process import differing, snapshot

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(44, 4)), RNG.normal(size=(44, 1))
FIT = {"batch_size": 10, "shuffle": True, "verbose": 0}


def model(*layers):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
            *layers,
            keras.layers.Dense(1),
        ]
    )


def trainer(replicas, run_dir, *layers, kind=looplab.Trainer, **options):
    strategy = make_strategy(replicas) if replicas > 1 else "one_device"
    options = {"precision": "float64", "execution": "graph", **options}
    return kind(lambda: model(*layers), "adam", "mse", ["mae"], strategy=strategy, run_dir=run_dir, **options)


@pytest.mark.promise(1, 10)
@pytest.mark.fault(25)
@pytest.mark.parametrize("later", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_other_replicas_go_on_with_the_same_global_batches(later, tmp_path):
    unbroken = trainer(1, None)
    unbroken.fit(X, Y, **FIT, epochs=4)
    trainer(2, tmp_path).fit(X, Y, **FIT, steps=7)  # within the second epoch
    again = trainer(later, tmp_path)
    again.fit(X, Y, **FIT, epochs=4)
    left, right = (state.read(each._engine.variables) for each in (unbroken, again))
    for path in right:
        if path.startswith(("models/", "optimizers/")):
            np.testing.assert_allclose(left[path], right[path], rtol=1e-9, atol=1e-9, err_msg=path)


@pytest.mark.slow
@pytest.mark.promise(10, 14)
@pytest.mark.parametrize(
    ("replicas", "options"),
    [
        pytest.param(1, {"micro_batches": 3}, marks=pytest.mark.slow),
        (2, {"micro_batches": 2, "batch_norm": "local"}),
    ],
    ids=["in pieces", "in pieces, with statistics of each replica"],
)
def test_a_run_goes_on_in_pieces_and_with_local_statistics_to_the_bit(replicas, options, tmp_path):
    def made(run_dir):
        return trainer(replicas, run_dir, keras.layers.Dropout(0.5, seed=1), **options)

    unbroken = made(None)
    unbroken.fit(X, Y, **FIT, epochs=3)
    made(tmp_path).fit(X, Y, **FIT, steps=7)  # within the second epoch
    again = made(tmp_path)
    again.fit(X, Y, **FIT, epochs=3)
    assert int(again.step.numpy()) == 15
    assert differing(*(state.read(each._engine.variables) for each in (again, unbroken))) == []


@pytest.mark.slow
@pytest.mark.fault(25)
def test_steps_that_draw_random_numbers_go_on_with_other_replicas(tmp_path, caplog):
    dropout = lambda: keras.layers.Dropout(0.5)  # noqa: E731
    trainer(2, tmp_path, dropout()).fit(X, Y, **FIT, epochs=1)
    again = trainer(3, tmp_path, dropout())
    again.fit(X, Y, **FIT, epochs=2)
    assert "the run goes on with other replicas: replicas 2 -> 3" in caplog.text
    (seeds,) = (v for path, v in again._engine.variables.items() if path.endswith("seed_generator_state"))
    assert len({tuple(part.numpy().tolist()) for part in state.parts(seeds)}) == 1  # masks follow the row


@pytest.mark.slow
def test_steps_that_draw_by_replica_need_leave(tmp_path, caplog):
    options = {"random": "replicas"}
    trainer(1, tmp_path, keras.layers.Dropout(0.5), **options).fit(X, Y, **FIT, epochs=1)
    with pytest.raises(
        looplab.CheckpointError, match=r"(?s)topology: replicas 1 -> 2.*allow_change=\[topology\]"
    ) as no:
        trainer(2, tmp_path, keras.layers.Dropout(0.5), **options).fit(X, Y, **FIT, epochs=2)
    assert no.value.exit_code == 3
    again = trainer(2, tmp_path, keras.layers.Dropout(0.5), allow_change=["topology"], **options)
    again.fit(X, Y, **FIT, epochs=2)
    assert "goes on with another topology, as allowed: replicas 1 -> 2" in caplog.text
    (seeds,) = (v for path, v in again._engine.variables.items() if path.endswith("seed_generator_state"))
    own = {tuple(part.numpy().tolist()[:1]) for part in state.parts(seeds)}
    assert len(own) == 2  # each draws its own masks


class Doubled(looplab.Trainer):
    def compute_loss(self, batch, training):
        return 2.0 * (self.model(batch[0], training=training) - batch[1]) ** 2


class Tripled(looplab.Trainer):
    def compute_loss(self, batch, training):
        return 3.0 * (self.model(batch[0], training=training) - batch[1]) ** 2


@pytest.mark.slow
@pytest.mark.fault(27)
def test_another_step_or_other_data_is_refused_all_at_once(tmp_path, caplog):
    def made(kind, **options):
        return kind(lambda: model(), "adam", run_dir=tmp_path, **options)

    made(Doubled).fit(X, Y, **FIT, epochs=1)
    made(Doubled).fit(X, Y, **FIT, epochs=2)  # the same
    with pytest.raises(
        looplab.CheckpointError,
        match=r"(?s)data: .*examples 44 -> 40.*code: its operations have changed.*allow_change=\[data,code\]",
    ):
        made(Tripled).fit(X[:40], Y[:40], **FIT, epochs=3)
    with pytest.raises(looplab.CheckpointError, match=r"allow_change=\[code\]"):
        made(Tripled, allow_change=["data"]).fit(X[:40], Y[:40], **FIT, epochs=3)
    again = made(Tripled, allow_change=["data", "code"])
    again.fit(X[:40], Y[:40], **FIT, epochs=4)
    assert "another data, as allowed: examples 44 -> 40" in caplog.text
    assert "epochs have 4 steps from here on" in caplog.text  # after two epochs that are done
    assert "another code, as allowed" in caplog.text


def test_only_what_there_is_can_be_allowed():
    with pytest.raises(
        looplab.ConfigurationError, match=r"allow_change: 'topolgy' .*Did you mean 'topology'"
    ):
        looplab.Trainer(model, "adam", "mse", allow_change=["topolgy"])


class OwnGenerator(looplab.Trainer):
    def setup(self):
        self.noise = tf.random.Generator.from_seed(3)

    def compute_loss(self, batch, training):
        inputs, targets = batch
        noise = self.noise.normal(tf.shape(inputs), dtype=inputs.dtype)
        return super().compute_loss((inputs + noise, targets), training)


@pytest.mark.slow
@pytest.mark.fault(25)
def test_a_generator_whose_numbers_no_row_keeps_needs_leave(tmp_path):
    trainer(2, tmp_path, kind=OwnGenerator).fit(X, Y, **FIT, epochs=1)
    with pytest.raises(looplab.CheckpointError, match=r"(?s)topology: .*allow_change=\[topology\]"):
        trainer(1, tmp_path, kind=OwnGenerator).fit(X, Y, **FIT, epochs=2)


class Remembers(looplab.Callback):
    every = None

    def state(self):
        return {"seen": 1}


def batches(more=False):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    data = data.enumerate().map(lambda i, pair: pair).take(100) if more else data
    data = data.shuffle(5, seed=0, reshuffle_each_iteration=False).batch(10)
    return data.apply(tf.data.experimental.assert_cardinality(5))


@pytest.mark.share(1)
@pytest.mark.fault(22, 27)
@pytest.mark.parametrize(
    ("changed", "ended"),
    [
        ("callbacks", True),
        ("pipeline", False),
        ("model", True),
        pytest.param("callbacks", False, marks=pytest.mark.slow),
        pytest.param("pipeline", True, marks=pytest.mark.slow),
        pytest.param("model", False, marks=pytest.mark.slow),
    ],
)
def test_a_refused_start_leaves_everything_as_it_was(changed, ended, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_SHARE", 0)  # a snapshot at every save

    def made(units=5, callbacks=(), run_dir=tmp_path):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)]
        policy = looplab.CheckpointPolicy(every="3st")
        return looplab.Trainer(
            keras.Sequential(layers), "sgd", "mse", callbacks=callbacks, checkpoint=policy, run_dir=run_dir
        )

    made().fit(batches(), steps=7, verbose=0)
    if not ended:
        (tmp_path / "outcome.json").unlink()
    checkpoints = tmp_path / "checkpoints"
    for name in ("step-00000009", ".step-00000010.123"):  # what a killed start may leave: damaged, or in half
        (checkpoints / name).mkdir()
        (checkpoints / name / "manifest.json").write_text("{")
    (checkpoints / "step-00000007").rename(
        checkpoints / f".step-00000007{looplab.checkpoint.bundle.REPLACED}"
    )
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 8, "epoch": 2, "split": "train", "values": {}, "timing": {}}\n')
    before = snapshot(tmp_path)

    trainer = made(6 if changed == "model" else 5, [Remembers()] if changed == "callbacks" else [])
    weights = trainer.model.get_weights()
    with pytest.raises(looplab.CheckpointError):
        trainer.fit(batches(more=changed == "pipeline"), steps=20, verbose=0)
    after = snapshot(tmp_path)
    assert after.pop(crash_report.REPORT).startswith(b"# ")
    assert ended or after.pop("outcome.json")
    assert after == before
    assert all(map(np.array_equal, weights, trainer.model.get_weights())) and int(trainer.step.numpy()) == 0

    again = made()
    again.fit(batches(), steps=10, verbose=0)  # with what was left, from step 7
    unbroken = made(run_dir=None)
    unbroken.fit(batches(), steps=10, verbose=0)
    for left, right in zip(again.model.get_weights(), unbroken.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_trainer_that_cannot_go_back_leaves_the_logs_alone(tmp_path):
    class Breaks(looplab.Callback):
        def on_step(self, event, controls):
            if event.step == 2:
                raise RuntimeError("too early")

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    trainer = looplab.Trainer(model, "sgd", "mse", callbacks=[Breaks()], log_every=1, run_dir=tmp_path)
    with pytest.raises(RuntimeError, match="too early"):
        trainer.fit(X, Y, **FIT)
    before = snapshot(tmp_path)
    with pytest.raises(looplab.ConfigurationError, match="there is no state to go back to"):
        trainer.fit(X, Y, **FIT)
    assert snapshot(tmp_path) == before


@pytest.mark.share(1)
@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}, r"config: optimizer.learning_rate 0.1 -> 0.2"),
        pytest.param(
            {"momentum": 0.9},
            {"momentum": 0.5},
            r"config: optimizer.momentum 0.9 -> 0.5",
            marks=pytest.mark.slow,
        ),
        ({"clipnorm": 1.0}, {}, r"config: optimizer.clipnorm 1.0 -> None"),
    ],
)
def test_another_setting_of_an_optimizer_is_refused(before, now, said, tmp_path, caplog):
    def made(options, **more):
        made = lambda: keras.optimizers.SGD(**options)  # noqa: E731
        return looplab.Trainer(lambda: model(), made, "mse", run_dir=tmp_path, **more)

    made({"learning_rate": 0.1, "momentum": 0.3, **before}).fit(X, Y, **FIT, epochs=1)
    now = {"learning_rate": 0.1, "momentum": 0.3, **now}
    with pytest.raises(looplab.CheckpointError, match=rf"(?s){said};.*allow_change=\[config\]") as no:
        made(now).fit(X, Y, **FIT, epochs=2)
    assert no.value.exit_code == 3
    made(now, allow_change=["config"]).fit(X, Y, **FIT, epochs=2)
    assert "goes on with another config, as allowed" in caplog.text


@pytest.mark.parametrize(
    ("schedule", "own", "lengths"),
    [
        (0.1, {}, {}),
        (
            looplab.schedule.WarmupCosine(np.float32(0.1), 8, 2),
            {"": "WarmupCosine", "learning_rate": 0.1, "warmup_steps": 2, "floor": 0.0},
            {"total_steps": 8},
        ),
        (
            looplab.schedule.WarmupCosine(0.1, 8, 20),  # the warm-up is as long as the run
            {"": "WarmupCosine", "learning_rate": 0.1, "floor": 0.0},
            {"total_steps": 8},
        ),
        (
            looplab.schedule.Warmup(schedule=keras.optimizers.schedules.PolynomialDecay(tf.constant(0.2), 9)),
            {
                **{"": "Warmup", "learning_rate": None, "warmup_steps": 0, "schedule": "PolynomialDecay"},
                **{"schedule.initial_learning_rate": 0.2, "schedule.end_learning_rate": 0.0001},
                **{"schedule.power": 1.0, "schedule.cycle": False},
            },
            {"schedule.decay_steps": 9},
        ),
        (
            looplab.schedule.in_float64(looplab.schedule.Piecewise(0.1, [2], [0.5])),
            {"": "Piecewise", "learning_rate": 0.1, "boundaries": [2], "factors": [0.5]},
            {},
        ),
    ],
)
def test_the_settings_of_a_schedule_are_known(schedule, own, lengths):
    assert schedule_settings.settings(schedule) == (own, lengths)
    assert json.loads(json.dumps((own, lengths))) == [own, lengths]


@pytest.mark.slow
@pytest.mark.fault(27)
def test_another_schedule_is_refused_and_another_length_is_said(tmp_path, caplog):
    def made(rate, epochs):
        made = lambda: keras.optimizers.SGD(rate)  # noqa: E731
        looplab.Trainer(lambda: model(), made, "mse", run_dir=tmp_path).fit(X, Y, **FIT, epochs=epochs)

    cosine = looplab.schedule.WarmupCosine
    made(cosine(0.1, 5), epochs=1)
    for other, said in (
        (0.1, "WarmupCosine -> 0.1"),
        (cosine(0.2, 5), "0.1 -> 0.2"),
        (cosine(0.1, 5, floor=0.5), "0.0 -> 0.5"),
    ):
        with pytest.raises(looplab.CheckpointError, match=rf"config: optimizer.learning_rate.* {said};"):
            made(other, epochs=2)
    made(cosine(0.1, 10), epochs=2)
    assert "another length than before: optimizer.learning_rate.total_steps 5 -> 10. The step" in caplog.text


@pytest.mark.slow
@pytest.mark.fault(27)
def test_other_contents_of_the_same_size_are_refused(tmp_path):
    def made(**more):
        return looplab.Trainer(lambda: model(), "sgd", "mse", run_dir=tmp_path, **more)

    made().fit(X, Y, **FIT, epochs=1)
    with pytest.raises(
        looplab.CheckpointError, match=r"data: the values of targets have changed; the coming epochs"
    ):
        made().fit(X, Y + 1, **FIT, epochs=2)
    spec = r"data: targets float\d\d \[1\] -> int64 \[1\]; "
    with pytest.raises(looplab.CheckpointError, match=spec):
        made().fit(X, Y.astype("int64"), **FIT, epochs=2)
    made(allow_change=["data"]).fit(X, Y + 1, **FIT, epochs=2)


@pytest.mark.fault(27)
def test_other_batches_of_a_stream_are_refused(tmp_path):
    def fit(size, epochs):
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(size, drop_remainder=True)
        looplab.Trainer(lambda: model(), "sgd", "mse", run_dir=tmp_path).fit(data, epochs=epochs, verbose=0)

    fit(4, 1)
    with pytest.raises(looplab.CheckpointError, match=r"data: batches .*\(4, 4\).* -> .*\(2, 4\)"):
        fit(2, 2)
