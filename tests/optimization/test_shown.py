"""Whatever is shown of a loss, wherever, against an oracle in NumPy float64 that shares no code with looplab.

A linear model, every form in which a loss can be given, and every kind of penalty.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import looplab
from looplab.protocols import Logger
from tests.conftest import make_strategy
from tests.process import scalars

RATE, KERNEL, ACTIVITY, ADDED = 0.125, 0.5, 0.25, 0.375
PENALTIES = ["none", "kernel", "activity", "add_loss"]


class Keeps(keras.layers.Layer):
    """Hands its input on, and adds the mean of its squares over the batch to the loss."""

    def call(self, inputs):
        self.add_loss(ADDED * keras.ops.mean(inputs**2))
        return inputs


def make_model(penalty, named):
    inputs = keras.Input((2,))
    l2 = keras.regularizers.L2
    outputs = keras.layers.Dense(
        1,
        kernel_regularizer=l2(KERNEL) if penalty == "kernel" else None,
        activity_regularizer=l2(ACTIVITY) if penalty == "activity" else None,
    )(inputs)
    if penalty == "add_loss":
        outputs = Keeps()(outputs)
    return keras.Model(inputs, {"a": outputs, "b": 2 * outputs} if named else outputs)


@dataclass
class Sums:
    """The terms of a loss on some rows: name -> (sum, what divides it or None, scale, what it weighs)."""

    terms: dict

    def values(self):
        found = {
            name: s if by is None else s / by if by else 0.0 for name, (s, by, _, _) in self.terms.items()
        }
        whole = sum(self.terms[name][2] * value for name, value in found.items())
        return {**found, "loss": whole}

    @staticmethod
    def means(all_of):
        """Returns what an epoch, or an evaluation, shows: each term by its own weight, the loss their sum."""
        found, whole = {}, []
        for name in all_of[0].terms:
            rows = [(sums.values_of(name), sums.terms[name][3]) for sums in all_of]
            weight = sum(share for _, share in rows)
            mean = sum(value * share for value, share in rows) / weight if weight else None
            found[name] = float("nan") if mean is None else mean
            whole += [] if mean is None else [all_of[0].terms[name][2] * mean]
        return {**found, "loss": sum(whole) if whole else float("nan")}  # nothing weighed anything

    def values_of(self, name):
        total, by, _, _ = self.terms[name]
        return total if by is None else total / by if by else 0.0


class Oracle:
    def __init__(self, form, penalty, kernel, bias):
        self.form, self.penalty, self.kernel, self.bias = form, penalty, kernel[:, 0].copy(), bias[0].copy()

    def terms(self, x, y, w):
        """Returns the terms, and what each row's prediction has as gradient in all of them."""
        n, p = len(x), x @ self.kernel + self.bias
        e, one = p - y, np.ones(n)
        square, slope = e**2, 2 * e
        terms, slopes = {}, np.zeros(n)

        def term(name, values, slope, weights, by, scale=1.0):
            nonlocal slopes
            terms[name] = ((weights * values).sum(), by, scale, n if by is None else by)
            slopes = slopes + scale * weights * slope / (1.0 if by is None else by or 1.0)

        if self.form in ("name", "function"):
            term("loss", square, slope, w, n)
        elif self.form == "sum":
            term("loss", square, slope, w, None)
        elif self.form == "weighted mean":
            term("loss", square, slope, w, w.sum())
        elif self.form == "values":
            term("loss", square, slope, one, n)
        elif self.form == "pair":
            term("loss", square, slope, w, w.sum())
        elif self.form == "terms":
            term("first", square, slope, one, n)
            term("second", p**2, 2 * p, w, w.sum())
        elif self.form == "outputs":
            term("a_loss", square, slope, w, n)
            term("b_loss", (2 * p - y) ** 2, 4 * (2 * p - y), w, n, scale=0.5)
        kernel = np.zeros(2)
        if self.penalty == "kernel":
            terms["regularization"] = (KERNEL * (self.kernel**2).sum() * n, n, 1.0, n)
            kernel = 2 * KERNEL * self.kernel
        elif self.penalty != "none":
            factor = {"activity": ACTIVITY, "add_loss": ADDED}[self.penalty]
            terms["regularization"] = (factor * (p**2).sum(), n, 1.0, n)
            slopes = slopes + factor * 2 * p / n
        return Sums(terms), x.T @ slopes + kernel, slopes.sum()

    def step(self, *rows):
        found, kernel, bias = self.terms(*rows)
        self.kernel, self.bias = self.kernel - RATE * kernel, self.bias - RATE * bias
        return found


class Own(looplab.Trainer):
    form: str

    def compute_loss(self, batch, training):
        x, y, w = batch
        p = self.model(x, training=training)[:, 0]
        square = (p - y[:, 0]) ** 2
        if self.form == "values":
            return square
        return (square, w) if self.form == "pair" else {"first": square, "second": (p**2, w)}


def make_trainer(form, penalty, **options):
    def mean(t, p):
        return keras.ops.mean((t - p) ** 2, axis=-1)

    losses = {
        "name": "mse",
        "function": mean,
        "sum": keras.losses.MeanSquaredError(reduction="sum"),
        "weighted mean": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        "outputs": {"a": "mse", "b": "mse"},
    }
    kind = looplab.Trainer if form in losses else type("Own", (Own,), {"form": form})
    if form == "outputs":
        options["loss_weights"] = {"b": 0.5}
    return kind(
        lambda: make_model(penalty, form == "outputs"),
        lambda: keras.optimizers.SGD(RATE),
        losses.get(form),
        precision="float64",
        **options,
    )


FORMS = ["name", "function", "sum", "weighted mean", "values", "pair", "terms", "outputs"]


class Seen(looplab.Callback):
    def __init__(self):
        self.steps, self.epochs, self.evaluations, self.monitors = [], [], [], []

    def on_step(self, event, controls):
        self.steps.append(dict(event.values))

    def on_epoch_end(self, event, controls):
        self.epochs.append(dict(event.values))

    def on_evaluate(self, event, controls):
        self.evaluations.append(dict(event.values))
        self.monitors.append(dict(event.monitors))


class KerasSaw(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


class Records(Logger):
    def __init__(self):
        self.steps = []

    def write_steps(self, records):
        self.steps += records


def batches(rows, size):
    return [tuple(part[i : i + size] for part in rows) for i in range(0, len(rows[0]), size)]


def same(found, expected, what, rtol=1e-9):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol, err_msg=f"{what}: {name}")


cells = {
    "seed": st.integers(0, 10_000),
    "form": st.sampled_from(FORMS),
    "penalty": st.sampled_from(PENALTIES),
    "size": st.integers(1, 13),
    "batch": st.integers(1, 6),
    "replicas": st.integers(1, 3),
    "micro": st.integers(1, 3),
    "mode": st.sampled_from(["graph", "graph", "xla_step", "xla_loop", "eagerly"]),
    "zeros": st.booleans(),
}


@settings(max_examples=1)
@given(**cells)
@example(
    seed=1, form="name", penalty="kernel", size=9, batch=4, replicas=2, micro=2, mode="graph", zeros=False
)
@example(
    seed=2, form="pair", penalty="activity", size=7, batch=3, replicas=3, micro=1, mode="graph", zeros=True
)
@example(
    seed=3, form="sum", penalty="add_loss", size=7, batch=3, replicas=1, micro=2, mode="xla_loop", zeros=False
)
@example(
    seed=4,
    form="outputs",
    penalty="kernel",
    size=5,
    batch=2,
    replicas=1,
    micro=1,
    mode="eagerly",
    zeros=False,
)
@pytest.mark.promise(41)
def test_p41_all_that_is_shown_of_a_loss_is_the_oracles(
    seed, form, penalty, size, batch, replicas, micro, mode, zeros
):
    holds(seed, form, penalty, size, batch, replicas, micro, mode, zeros)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=100)
@given(**cells)
@pytest.mark.promise(41)
def test_p41_so_it_is_of_many(seed, form, penalty, size, batch, replicas, micro, mode, zeros):
    holds(seed, form, penalty, size, batch, replicas, micro, mode, zeros)


def holds(seed, form, penalty, size, batch, replicas, micro, mode, zeros):
    rng = np.random.default_rng(seed)

    def rows(count):
        weights = rng.integers(0 if zeros else 1, 4, count) * 0.5
        return rng.normal(size=(count, 2)), rng.normal(size=count), weights

    train, held_out = rows(size), rows(size % 5 + 1)
    if replicas > 1 and mode == "xla_loop":
        mode = "graph"
    options = {"run_eagerly": True} if mode == "eagerly" else {"execution": mode}
    seen, keras_saw, records = Seen(), KerasSaw(), Records()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            form,
            penalty,
            strategy=make_strategy(replicas),
            micro_batches=micro,
            seed=seed,
            run_dir=Path(folder) / "run",
            log_every="1st",
            callbacks=[seen, keras_saw],
            loggers=[records],
            **options,
        )
        oracle = Oracle(form, penalty, *trainer.model.get_weights())
        x, y, w = train
        data = {"y": y[:, None], "vy": held_out[1][:, None]}
        if form == "outputs":
            data = {name: {"a": each, "b": each} for name, each in data.items()}
        history = trainer.fit(
            (x, data["y"], w),
            validation_data=(held_out[0], data["vy"], held_out[2]),
            batch_size=batch,
            epochs=2,
            shuffle=False,
            verbose=0,
        ).history
        evaluated = trainer.evaluate((held_out[0], data["vy"], held_out[2]), batch_size=batch)
        files = read(Path(folder) / "run")

    steps, epochs, evaluations = [], [], []
    for _ in range(2):
        own = [oracle.step(*part) for part in batches(train, batch)]
        steps += [sums.values() for sums in own]
        epochs.append(Sums.means(own))
        evaluations.append(Sums.means([oracle.terms(*part)[0] for part in batches(held_out, batch)]))
    np.testing.assert_allclose(trainer.model.get_weights()[0][:, 0], oracle.kernel, rtol=1e-9, atol=1e-9)

    for number, expected in enumerate(steps):
        same(seen.steps[number], expected, f"on_step {number}")
        same(files["steps"][number], expected, f"metrics.jsonl, step {number + 1}")
        same(records.steps[number].values, expected, f"logger, step {number + 1}")
    for number, (own, held) in enumerate(zip(epochs, evaluations, strict=True)):
        monitors = {**own, **{f"val_{name}": value for name, value in held.items()}}
        same(seen.epochs[number], monitors, f"on_epoch_end {number}")
        same(keras_saw.epochs[number], monitors, f"logs of Keras, epoch {number}")
        same(seen.evaluations[number], held, f"on_evaluate {number}")
        same(seen.monitors[number], {f"val_{name}": value for name, value in held.items()}, "monitors")
        same({name: series[number] for name, series in history.items()}, monitors, f"history {number}")
        same(files["epochs"]["train"][number], own, f"metrics.jsonl, epoch {number}")
        same(files["epochs"]["validation"][number], held, f"metrics.jsonl, evaluation {number}")
        same(files["tensorboard"]["train"][number], own, f"TensorBoard, epoch {number}", rtol=1e-5)
        same(files["tensorboard"]["validation"][number], held, f"TensorBoard, evaluation {number}", rtol=1e-5)
    same(evaluated, evaluations[-1], "evaluate")
    best = min((e["loss"] for e in evaluations if e["loss"] == e["loss"]), default=None)
    np.testing.assert_allclose(files["best"] or 0.0, best or 0.0, rtol=1e-9, err_msg="the best checkpoint")


def read(run):
    """Returns what the files of a run say."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def epochs(split):
        found = [line["values"] for line in lines if line["split"] == split]
        named = [
            {name.removeprefix("epoch_"): float(v) for name, v in values.items() if name.startswith("epoch_")}
            for values in found
        ]
        return [values for values in named if values]

    def tensorboard(split):
        by_step: dict = {}
        for tag, step, value in scalars(run, split):
            if tag.startswith("epoch_"):
                by_step.setdefault(step, {})[tag.removeprefix("epoch_")] = value
        return [by_step[step] for step in sorted(by_step)]

    return {
        "steps": [line["values"] for line in lines if "loss" in line["values"]],
        "epochs": {split: epochs(split) for split in ("train", "validation")},
        "tensorboard": {split: tensorboard(split) for split in ("train", "validation")},
        "best": (json.loads((run / "outcome.json").read_text())["best"] or {}).get("value"),
    }
