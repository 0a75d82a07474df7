"""What a configuration names writes inside the run directory, also where links in it lead elsewhere."""

import inspect
import os
import re

import keras
import numpy as np
import pytest
from omegaconf import OmegaConf

import looplab
from looplab import data, experiment
from looplab.config import check
from looplab.errors import Refused
from looplab.experiment import write_limits
from tests.process import snapshot

X = np.ones((8, 2), "float32")
PATHLIKE = re.compile(r"(^|_)(path|dir|file|folder|uri|url|root)")
# What else has such a name: read only, or no place.
READS = {
    keras.callbacks.BackupAndRestore: {"backup_dir"},  # refused by name
    keras.callbacks.RemoteMonitor: {"root", "path"},  # likewise
    data.image_folder: {"directory"},
    data.records: {"files"},
    data.table: {"path"},
    data.tfds: {"data_dir"},
}


def configuration(**sections):
    loss = {"_target_": "keras.losses.MeanSquaredError"}
    return check(OmegaConf.create({"epochs": 1, "optimizer": "sgd", "loss": loss, **sections}))


def loggers(**given):
    return configuration(loggers={"more": {"x": {"_target_": "looplab.loggers.Csv", **given}}})


def callbacks(**given):
    return configuration(callbacks={"x": {"_target_": "keras.callbacks.ModelCheckpoint", **given}})


@pytest.mark.parametrize(
    "config",
    [
        loggers(),
        loggers(filename="other.CSV"),
        loggers(filename="tables/every step, ü.csv"),
        callbacks(filepath="{epoch:02d}-{val_loss:.2f}.keras"),
        *(
            configuration(
                loggers={"more": {"x": {"_target_": "looplab.loggers.MLflow", "tracking_uri": uri}}}
            )
            for uri in (None, "sqlite:///mlflow.db", "https://here.example:5000", "mlruns", "databricks")
        ),
        configuration(callbacks={"x": {"_target_": "looplab.examples.gan.Judge"}}),
        configuration(loggers={"more": {"x": {"_target_": "looplab.loggers.WandB", "mode": "offline"}}}),
        configuration(
            data={
                "source": {"_target_": "looplab.data.records", "files": "x", "parse": "x", "index_dir": "i"}
            }
        ),
        configuration(
            data={"source": {"_target_": "looplab.data.tfds", "name": "x", "split": "x", "data_dir": "/data"}}
        ),
    ],
)
def test_what_stays_inside_is_taken(config, tmp_path):
    write_limits.check(config, tmp_path)
    write_limits.check(config, None)


@pytest.mark.parametrize(
    ("link", "target", "config", "key"),
    [
        ("metrics.csv", "../kept.txt", loggers(), "loggers.more.x.filename"),
        ("metrics.csv", "../not there", loggers(filename="metrics.csv"), "loggers.more.x.filename"),
        ("metrics.csv.part", "../kept.txt", loggers(filename="metrics.csv"), "loggers.more.x.filename"),
        ("a", "..", loggers(filename="a/b.csv"), "loggers.more.x.filename"),
        ("a.csv", "a.csv", loggers(filename="a.csv"), "loggers.more.x.filename"),
        ("callbacks", "..", callbacks(filepath="b.keras"), "callbacks.x.filepath"),
        ("callbacks/1", "../..", callbacks(filepath="{epoch}/b.keras"), "callbacks.x.filepath"),
    ],
)
def test_a_link_that_leads_out_is_refused(link, target, config, key, tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / link).parent.mkdir(parents=True)
    (run_dir / link).symlink_to(target)
    (tmp_path / "kept.txt").write_text("kept")
    before = snapshot(tmp_path)
    with pytest.raises(Refused) as caught:
        experiment.build(config, run_dir)
    (problem,) = caught.value.problems
    assert problem.key.startswith(key) and "run directory" in problem.message
    assert snapshot(tmp_path) == before and not os.path.lexists(tmp_path / "not there")


def test_a_link_within_the_run_directory_stays(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "t").symlink_to("tables")
    write_limits.check(loggers(filename="t/a.csv"), tmp_path)


def test_in_python_the_table_stays_in_the_run_directory_too(tmp_path):
    for name in ("/tmp/x.csv", "../x.csv", "config.yaml", "a\nb.csv", "x" * 300 + ".csv"):
        with pytest.raises(Refused, match=r"^Csv\.filename: "):
            looplab.loggers.Csv(name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.csv").symlink_to(tmp_path / "b.csv")
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1)]),
        "sgd",
        "mse",
        run_dir=tmp_path / "run",
        loggers=[looplab.loggers.Csv("a.csv")],
    )
    with pytest.raises(Refused, match=r"^Csv\.filename: .* by a symbolic link"):
        trainer.fit(X, X[:, :1], verbose=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "a.csv"]


def targets():
    kinds = keras.callbacks.Callback, looplab.Callback, looplab.Logger, keras.Model
    modules = keras.callbacks, looplab.callbacks, looplab.loggers, looplab.models
    named = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    functions = [data.digits, data.image_folder, data.records, data.splits, data.table, data.tfds]
    return [*(value for value in named if issubclass(value, kinds)), *functions]


def test_no_path_is_forgotten():
    """Whoever adds a target with a path says here that it is read only, or confines it."""
    known = {target: {name} for target, name in write_limits.PATHS.items()} | {
        looplab.loggers.Csv: {"filename"},
        looplab.loggers.MLflow: {"tracking_uri"},
        **READS,
        data.records: {"files", "index_dir"},
    }
    for target in targets():
        if target in vars(looplab.loggers).values() and target not in write_limits.LOGGERS:
            continue  # refused by name
        pathlike = {name for name in inspect.signature(target).parameters if PATHLIKE.search(name)}
        assert pathlike <= known.get(target, set()), target
