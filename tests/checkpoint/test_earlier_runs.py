"""Runs of an earlier looplab go on as they would have there, whatever has become of its modules since.

The fixture is two runs of the commit 9c05644, with Keras 3.15 and TensorFlow 2.21 (`make_runs`): one of the
command and one of Python. What they recorded is expected of later versions, which may record more.
"""

import csv
import importlib.metadata
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.process import (
    arrays,
    differing,
    ended,
    read_json,
    records,
    saved,
    scalars,
    snapshot,
    start,
    steps,
    trained,
)

RUNS = Path(__file__).parent / "zoo" / "runs_9c05644"
MIDDLE = {"command": 30, "python": 7}  # steps within an epoch
ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}

# `python -m looplab.train` with these. The threads are those of the tests' own process.
WORDS = ["+experiment=digits", "run_dir=command", "epochs=2", "model.filters=[4]"]
WORDS += ["callbacks=[early_stopping]", "checkpoint.every=30st", "checkpoint.keep_last=5"]
WORDS += ["loggers=csv", "loggers.every=5st", "loggers.verbose=0"]
WORDS += ["devices.intra_threads=1", "devices.inter_threads=2"]

# Quotients of whole numbers, which are the same everywhere.
IMAGES = (np.arange(64 * 64) * 7919 % 1009 / 1009).astype("float32").reshape(64, 8, 8, 1)
LABELS = np.arange(64) % 3
TRAIN, VALIDATION = (IMAGES[:44], LABELS[:44]), (IMAGES[44:], LABELS[44:])


def make_model(seed=None):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2, padding="same"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.25, seed=seed),
            keras.layers.Dense(3),
        ]
    )


def make_trainer(run_dir, rate=0.05, **more):
    """Much to restore; EarlyStopping counts from the first epoch on, and ends the run after the fourth."""
    schedule = looplab.schedule.WarmupCosine(rate, total_steps=18, warmup_steps=3)
    groups = {
        "biases": looplab.ParameterGroup(["*/bias", "*/beta"], learning_rate_scale=2.0, weight_decay=0.0),
        "rest": looplab.ParameterGroup(weight_decay=0.01),
    }
    return looplab.Trainer(
        make_model,
        lambda: keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        micro_batches=2,
        parameter_groups=groups,
        callbacks=[
            looplab.callbacks.EarlyStopping(patience=3, min_delta=10.0),
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=10.0),
        ],
        checkpoint=looplab.CheckpointPolicy(every="7st", keep_last=5),
        log_every=2,
        loggers=[looplab.loggers.Csv()],
        run_dir=run_dir,
        **more,
    )


def fit(trainer):
    return trainer.fit(*TRAIN, validation_data=VALIDATION, batch_size=16, epochs=6, verbose=0).history


def by_keras():
    """Trains by Keras alone, with the operations that the runs are made of; returns the weights."""
    with tf.device("/CPU:0"):
        model = make_model(seed=1)
        model.set_weights([np.linspace(-1, 1, w.size).reshape(w.shape) + 1.5 for w in model.get_weights()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
        for _ in range(10):
            model.train_on_batch(IMAGES, LABELS)
    return [weight.tolist() for weight in model.get_weights()]


def make_runs(folder):
    """Made the fixture, once, after `import tests.conftest`; another commit gets another one, and this stays.

    Left out is what no run goes on from: `log.txt`, and what `environment.json` says of the machine.
    """
    trained(*WORDS, cwd=folder, **ON_CPU)
    trainer = make_trainer(folder / "python")
    history = fit(trainer)
    for name in MIDDLE:
        shutil.copytree(folder / name, RUNS / name, ignore=shutil.ignore_patterns("log.txt"))
        environment = read_json(RUNS / name / "environment.json")
        del environment["host"], environment["git"]
        (RUNS / name / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    loaded = looplab.load(folder / "command", "last")
    predictions = {"command": loaded.predict(IMAGES[:4]), "python": trainer.predict(IMAGES[:4])}
    expected = {
        "by_keras": by_keras(),
        "history": history,
        "predictions": {name: found.tolist() for name, found in predictions.items()},
    }
    (RUNS / "expected.json").write_text(json.dumps(expected) + "\n")


def expected(what):
    return read_json(RUNS / "expected.json")[what]


def versions_are_the_same():
    before = read_json(RUNS / "command" / "environment.json")["versions"]
    return all(before[name] == importlib.metadata.version(name) for name in ("keras", "numpy", "tensorflow"))


@pytest.fixture(scope="module")
def exactly():
    """Whether to the bit: where Keras alone computes the bits that it computed when the fixture was made.

    On another processor, or with another TensorFlow, kernels round otherwise, and results can only be close.
    looplab has no part in the answer: what it changed itself is no excuse.
    """
    return versions_are_the_same() and by_keras() == expected("by_keras")


def allowed():
    """What may have changed: nothing, but that another Keras makes the same step of other operations."""
    return [] if versions_are_the_same() else ["code"]


def earlier(name, folder, step):
    """Copies a run as it was once this step was saved, logs ahead of it; a run of step 0 is not there yet."""
    run_dir = folder / name
    if step:
        shutil.copytree(RUNS / name, run_dir)
        for later in steps(run_dir):
            if later > step:
                shutil.rmtree(run_dir / "checkpoints" / f"step-{later:08d}")
        assert steps(run_dir)[-1] == step
    return run_dir


def went_on(run_dir, name):
    """Whether it went on from the middle: that checkpoint is still the copy, and was not saved again."""
    own, copied = [path / "checkpoints" / f"step-{MIDDLE[name]:08d}" for path in (run_dir, RUNS / name)]
    return all((own / part.name).stat().st_mtime_ns == part.stat().st_mtime_ns for part in copied.iterdir())


def told(run_dir):
    """What a run recorded beside arrays, clocks left out."""
    values, _ = saved(run_dir)
    del values["code"]  # the run that goes on has compared it, as far as it can be
    with (run_dir / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    boards = {
        split: {tag: [found[1:] for found in of_split if found[0] == tag] for tag, *_ in of_split}
        for split in ("train", "validation")
        if (of_split := scalars(run_dir, split))
    }
    outcome = read_json(run_dir / "outcome.json")
    outcome = {
        name: outcome[name] for name in ("status", "reason", "step", "epoch", "best", "last_checkpoint")
    }
    outcome["reason"], *_ = (outcome["reason"] or "").split(";")  # after it words of a version
    return {"values": values, "jsonl": records(run_dir), "csv": table, "boards": boards, "outcome": outcome}


def otherwise(before, now, where=""):
    """The places at which something is not as it was; what there is besides does not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(key, value, now.get(key)) for key, value in before.items()]
    elif isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        pairs = [(place, *pair) for place, pair in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [f"{where}: {before} -> {now}"]
    return [found for key, *pair in pairs for found in otherwise(*pair, f"{where}/{key}")]


def assert_same_end(run_dir, name, exactly):
    """Nothing tells the run from the recorded one; or nothing but rounding, where that is otherwise."""
    recorded = RUNS / name
    assert steps(run_dir)[-1] == steps(recorded)[-1]
    before, now = arrays(recorded), arrays(run_dir)
    assert before.keys() <= now.keys()
    if exactly:
        assert differing(before, {path: now[path] for path in before}) == []
        assert otherwise(told(recorded), told(run_dir)) == []
        return
    for path, array in before.items():
        np.testing.assert_allclose(now[path], array, rtol=1e-4, atol=1e-5, err_msg=path)
    lines = [
        [(r["step"], r["split"], sorted(r["values"])) for r in records(run)] for run in (recorded, run_dir)
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.promise(10)
@pytest.mark.fault(26)
@pytest.mark.parametrize("since", [MIDDLE["command"], 0], ids=["goes on", "is made anew"])
def test_a_run_of_the_command(since, exactly, tmp_path):
    run_dir = earlier("command", tmp_path, since)
    words = [f"allow_change=[{','.join(allowed())}]"] if allowed() else []
    trained(*WORDS, *words, cwd=tmp_path, **ON_CPU)
    assert went_on(run_dir, "command") == (since > 0)
    assert_same_end(run_dir, "command", exactly)


@pytest.mark.share(1)
@pytest.mark.promise(10)
@pytest.mark.fault(26)
@pytest.mark.parametrize("since", [MIDDLE["python"], 0], ids=["goes on", "is made anew"])
def test_a_run_of_python(since, exactly, tmp_path):
    run_dir = earlier("python", tmp_path, since)
    rule = {} if since else {"random": "replicas"}  # by which it drew; a run that goes on keeps it
    history = fit(make_trainer(run_dir, allow_change=allowed(), **rule))
    assert went_on(run_dir, "python") == (since > 0)
    assert_same_end(run_dir, "python", exactly)
    assert history.keys() >= expected("history").keys()
    assert not exactly or otherwise(expected("history"), history) == []


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"rate": 0.049}, {"seed": 1}], ids=["rate", "seed"])
def test_another_run_would_be_noticed(other, exactly, tmp_path):
    run_dir = earlier("python", tmp_path, 0 if "seed" in other else MIDDLE["python"])
    fit(make_trainer(run_dir, allow_change=allowed(), **other))
    for either in {exactly, False}:
        with pytest.raises(AssertionError):
            assert_same_end(run_dir, "python", either)


@pytest.mark.parametrize("name", MIDDLE)
def test_their_checkpoints_are_listed_and_good(name, tmp_path):
    before, best = snapshot(RUNS / name), read_json(RUNS / name / "outcome.json")["best"]
    listed, looked = [
        ended(start(word, str(RUNS / name), module="looplab.checkpoint", cwd=tmp_path))
        for word in ("list", "verify")
    ]
    table = [re.split(r"\s{2,}", line.strip()) for line in listed[1].splitlines()]
    found = {int(step): row for step, *row in table if step.isdecimal()}
    assert (listed[0], list(found)) == (0, steps(RUNS / name))
    assert [step for step, row in found.items() if row[-1] == "best"] == [best["step"]]
    assert f"{best['monitor']} {best['value']:.6g}" in found[best["step"]]
    assert looked == (0, "".join(f"step-{step:08d}  good\n" for step in found))
    assert snapshot(RUNS / name) == before


def predicts(trainer, name, exactly):
    """Whether it predicts what it predicted, or nearly."""
    found, before = trainer.predict(IMAGES[:4]), np.array(expected("predictions")[name], "float32")
    return np.array_equal(found, before) if exactly else np.allclose(found, before, rtol=1e-3, atol=1e-3)


def test_the_run_of_the_command_is_loaded(exactly, tmp_path):
    run_dir = shutil.copytree(RUNS / "command", tmp_path / "command")
    before = snapshot(run_dir)
    loaded = looplab.load(run_dir, "last")
    weights = [weight.numpy().tobytes() for weight in loaded.model.weights]
    kept = [path for path in arrays(run_dir) if path.startswith("models/") and "/seed_generator/" not in path]
    assert sorted(weights) == sorted(arrays(run_dir)[path].tobytes() for path in kept)
    assert predicts(loaded, "command", exactly and not tf.config.list_logical_devices("GPU"))
    assert snapshot(run_dir) == before


def test_the_run_of_python_is_restored(exactly, tmp_path):
    run_dir = shutil.copytree(RUNS / "python", tmp_path / "python")
    trainer = make_trainer(run_dir)
    trainer.restore("last")
    assert predicts(trainer, "python", exactly)


def test_the_run_of_the_command_is_evaluated(exactly, tmp_path):
    shutil.copytree(RUNS / "command", tmp_path / "command")
    words = ["run_dir=command", "checkpoint=last", "output=values.json"]
    code, said = ended(start(*words, module="looplab.evaluate", cwd=tmp_path, **ON_CPU))
    assert code == 0, said
    found = read_json(tmp_path / "values.json")
    (recorded,) = [
        {name.removeprefix("epoch_"): value for name, value in record["values"].items()}
        for record in records(RUNS / "command")
        if (record["split"], record["step"]) == ("validation", found["step"])
    ]
    assert found["step"] == steps(RUNS / "command")[-1]
    near = recorded if exactly else pytest.approx(recorded, rel=1e-4)
    assert found["values"] == {"validation": near}
