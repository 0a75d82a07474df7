"""`Trainer.rehearse`: the plan of a fit and one real step of it, with nothing written."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
import looplab.checkpoint.state
from looplab.callbacks import EarlyStopping, Freeze, Profile, TimeLimit
from looplab.execution import memory
from looplab.protocols import Logger
from tests.conformance.cases import CASES, SMALL
from tests.conftest import make_strategy
from tests.process import snapshot

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def make(*callbacks, kind=looplab.Trainer, **options):
    def model():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])

    return kind(model, "adam", "mse", ["mae"], callbacks=callbacks, **options)


def rehearsed(trainer, **fit):
    """The plan by its labels; of a label that comes several times the texts in a list."""
    plan = trainer.rehearse(**fit)
    lines = {}
    for label, text in plan.lines:
        lines.setdefault(label, []).append(text)
    return {label: texts[0] if len(texts) == 1 else texts for label, texts in lines.items()}


@pytest.mark.share(1)
@pytest.mark.parametrize("name", SMALL)
def test_every_trainer_can_be_rehearsed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case, replicas = CASES[name], 2 if name in ("classifier", "contrastive", "gan") else 1
    trainer = case.make(strategy=make_strategy(replicas), run_dir="run", seed=5)
    data = case.data()
    plan = trainer.rehearse(**data)
    lines = dict(plan.lines)
    assert snapshot(tmp_path) == {} and list(tmp_path.iterdir()) == []
    assert "loss " in lines["step 1"]
    assert ("evaluation" in lines) == ("validation_data" in data)
    assert "activations at most" in lines["memory"]
    assert ("loops counted once" in lines["memory"]) == (
        name in ("branching", "looping", "recurrent", "example forecaster")
    )
    if name != "branching":  # the condition of its loop has placeholders of no known shape
        assert "unknown" not in lines["memory"]
    assert len(plan.layers) >= 1 and plan.total_steps == 3 * plan.steps_per_epoch
    assert int(trainer.step.numpy()) == 0


def test_a_rehearsal_leaves_no_trace_in_the_training():
    data = CASES["dropout"].data() | {"epochs": 2}
    weights = []
    for rehearse in (False, True):
        trainer = CASES["dropout"].make(seed=5, execution="graph")
        if rehearse:
            trainer.rehearse(**data)
        history = trainer.fit(**data, verbose=0)
        weights.append((looplab.checkpoint.state.read(trainer._engine.variables), history.history))
    (left, before), (right, after) = weights
    assert [path for path in left if left[path].tobytes() != right[path].tobytes()] == []
    assert before == after


@pytest.mark.share(1)
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"execution": "xla_step"}], ids=str)
def test_a_rehearsal_runs_as_the_training_will(options):
    lines = rehearsed(make(**options), x=X, y=X[:, :1])
    first = looplab.Trainer.evaluate(make(), X, X[:, :1])["loss"]
    assert float(lines["step 1"].split(";")[0].removeprefix("loss ")) == pytest.approx(first, abs=1e-3)
    assert ("not known" in lines["memory"]) == ("run_eagerly" in options)


class Often(looplab.Callback):
    every = "16ex"

    def on_step(self, event, controls):
        raise AssertionError("no callback is called")

    on_train_begin = on_evaluate = on_save = on_train_end = on_step


@pytest.mark.slow
def test_the_plan_says_what_happens_when(tmp_path):
    policy = looplab.CheckpointPolicy(every="2ep", keep_last=1)
    trainer = make(Often(), log_every="4st", checkpoint=policy, run_dir=tmp_path / "run")
    lines = rehearsed(
        trainer, x=(X, X[:, :1]), batch_size=8, epochs=5, steps_per_epoch=2, validation_data=(X, X[:, :1])
    )
    assert lines["data"].startswith("20 examples shuffled by index, batch 8, 2 steps an epoch")
    assert lines["batch"] == "0: float32 [?, 3], 1: float32 [?, 1]"
    assert lines["validation"] == "20 examples in order, batch 8, 3 steps an epoch, evaluated every 1ep"
    assert lines["length"] == "10 steps, 5 epochs of 2"
    assert lines["logged"] == "every 4st: steps 4, 8 (2 times)"
    assert lines["evaluated"] == "every 1ep: steps 2, 4, 6, ... (5 times)"
    assert lines["saved"].startswith("every 2ep: steps 4, 8 (2 times); when val_loss is the best so far")
    assert lines["best"] == "val_loss, lower is better"
    assert lines["callback"] == "Often, every 16ex: steps 2, 5, 7, ... (4 times)"
    # 4 x 3 + 4 and 4 + 1 weights, as many first and second moments, in float32
    assert lines["memory"].startswith("weights 84 bytes, optimizer 176 bytes, gradients 84 bytes; ")
    size = sum(array.nbytes for array in looplab.checkpoint.state.read(trainer._engine.variables).values())
    assert lines["checkpoint"].startswith(f"{size} bytes; the newest and the best are kept: {2 * size} bytes")


def test_the_plan_says_what_is_frozen_and_for_how_long():
    lines = rehearsed(
        make(Freeze("dense", until="2ep"), Freeze("*/bias")),
        x=(X, X[:, :1]),
    )
    assert lines["frozen"] == [
        "dense: 1 layer, 2 variables, 16 parameters; until 2ep",
        "*/bias: 0 layers, 2 variables, 5 parameters; for good",
    ]


@pytest.mark.slow
def test_the_plan_says_for_each_callback_when_it_acts():
    callbacks = [
        Freeze("dense", until="2ep"),
        Freeze("*/bias", until="9ep"),
        Profile("2st"),
        EarlyStopping(patience=3),
        keras.callbacks.ReduceLROnPlateau("val_loss"),
        keras.callbacks.LambdaCallback(on_train_end=print),
        TimeLimit(),
        looplab.Callback(),
    ]
    data = X, X[:, :1]
    lines = rehearsed(make(*callbacks), x=data, batch_size=8, epochs=4, validation_data=data)
    assert lines["callback"] == [
        "Freeze, once, at step 6",
        "Freeze, never",
        "Profile, twice, at steps 2, 4",
        "EarlyStopping, after each evaluation, after each epoch; waits for val_loss",
        "ReduceLROnPlateau, after each epoch; waits for val_loss",
        "LambdaCallback, when training ends",
        "TimeLimit, after each execution, after each evaluation",
    ]


@pytest.mark.slow
def test_the_plan_of_an_epoch_that_is_cut_short_or_has_no_end(tmp_path):
    lines = rehearsed(make(), x=(X, X[:, :1]), batch_size=8, steps=4, validation_data=(X, X[:, :1]))
    assert lines["evaluated"] == "every 1ep: steps 3, 4 (2 times)"
    assert lines["logged"] == "every 10st: never"
    made = rehearsed(CASES["reinforce"].make(run_dir=tmp_path / "run"), steps=7)
    assert made["evaluated"] == "never"
    assert made["saved"] == "every 10min by the clock; when loss is the best so far; at the end"


@pytest.mark.slow
def test_the_plan_of_a_fit_without_a_run_dir_promises_no_checkpoint():
    plan = make(EarlyStopping("loss", patience=3)).rehearse(X, X[:, :1])
    lines = dict(plan.lines)
    assert lines["saved"] == "nothing, because there is no run_dir" and "checkpoint" not in lines
    assert lines["best"] == "loss, lower is better"
    assert lines["stopping"] == "EarlyStopping: loss, lower is better, patience 3"
    said = str(plan).splitlines()
    assert said[0].split() == ["model", "layer", "kind", "parameters", "trained", "memory"]
    assert ["saved", "nothing, because there is no run_dir"] in [
        re.split("  +", line, maxsplit=1) for line in said
    ]
    assert str(plan) == repr(plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"), [("classifier", "are too few to measure"), ("reinforce", "is not measured")]
)
def test_the_plan_says_of_the_execution_what_the_training_says(name, why):
    class Shelf(Logger):
        def begin(self, summary):
            self.lines = dict(summary.lines)

    shelf = Shelf()
    trainer, data = CASES[name].make(loggers=[shelf], execution="auto"), CASES[name].data()
    foreseen = rehearsed(trainer, **data)["execution"]
    trainer.fit(**data, verbose=0)
    assert foreseen == shelf.lines["execution"]
    assert foreseen.startswith("graph; ") and foreseen.endswith(why)


@pytest.mark.slow
def test_the_table_counts_what_is_trained_now():
    trainer = make()
    trainer.fit(X, X[:, :1], verbose=0)
    trainer.model.layers[0].trainable = False
    assert [row.trained for row in trainer.rehearse(X, X[:, :1]).layers] == [0, 5]


@pytest.mark.share(1)
@pytest.mark.parametrize("where", ["x", "validation_data"])
def test_a_loss_that_is_not_finite_is_found(where):
    bad = np.where(np.arange(3) == 1, np.nan, X).astype("float32")
    data = {"x": (X, X[:, :1]), "validation_data": (X, X[:, :1])} | {where: (bad, X[:, :1])}
    what = {"x": "training step", "validation_data": "evaluation"}[where]
    with pytest.raises(looplab.LossError, match=f"the loss of the first {what} is not finite: loss nan"):
        make().rehearse(**data)


def test_a_label_out_of_range_is_found():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = looplab.Trainer(lambda: keras.Sequential([keras.layers.Dense(3)]), "sgd", loss)
    with pytest.raises(looplab.DataError, match=r"label of row 3 .* is 3, .* expected 0 to 2"):
        trainer.rehearse(X, np.arange(20) % 4)


def test_an_interval_that_the_data_does_not_have_is_found_before_the_step():
    class Counts(looplab.Callback):
        every = "8ex"

        def on_step(self, event, controls):
            pass

    data = tf.data.Dataset.from_tensor_slices((X, X[:, :1])).batch(8)
    with pytest.raises(looplab.ConfigurationError, match="8ex counts examples"):
        make(Counts()).rehearse(data)


# --- memory ---------------------------------------------------------------------------------------


def outputs(function, *shapes):
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return memory.of_step(tf.function(function).get_concrete_function(*specs).graph)


def test_the_outputs_of_all_operations_are_added_up():
    # The argument, its square, the identity that is returned: 3 x 4 x 5 floats.
    assert outputs(lambda x: x * x, [4, 5]) == memory.Outputs(3 * 4 * 20)


def test_nested_functions_count_and_unknown_sizes_are_said():
    plain = outputs(lambda x: x * x, [4, 5]).size
    square = tf.function(lambda x: x * x)
    nested = outputs(lambda x: square(x), [4, 5])
    assert nested.size == plain + 3 * 80  # its own argument, the call's result, the identity
    assert outputs(lambda x: x * x, [None, 5]) == memory.Outputs(0, unknown=3)


def test_a_variable_is_no_output_and_loops_are_counted():
    variable = tf.Variable(tf.zeros([1000]))
    assert outputs(lambda x: variable.assign_add(x)[0], [1000]).size < 5 * 4000
    looped = outputs(
        lambda x: tf.while_loop(lambda i, y: i < 9, lambda i, y: (i + 1, y * y), (0, x))[1], [50]
    )
    assert looped.loops == 1 and 5 * 200 <= looped.size < 9 * 200


@pytest.mark.slow
def test_a_batch_twice_as_large_needs_about_twice_the_activations():
    def size(batch):
        trainer = make()
        trainer.rehearse(np.zeros([batch, 3], "float32"), np.zeros([batch, 1], "float32"), batch_size=batch)
        rows = tf.zeros([batch, 3]), tf.zeros([batch, 1])
        return memory.of_step(trainer._engine.loops.of("train").graph(rows)).size

    assert 1.9 < size(2000) / size(1000) < 2.0
