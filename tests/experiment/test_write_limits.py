"""What a configuration names writes inside the run directory, also where links in it lead elsewhere."""

import inspect
import os
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
from omegaconf import OmegaConf

import looplab
from looplab import experiment
from looplab.config import check, foreign_targets, targets
from looplab.config.user_words import said_by
from looplab.errors import Refused
from looplab.experiment import write_limits
from tests.process import snapshot
from tests.registered import registered

X = np.ones((8, 2), "float32")
PATHLIKE = re.compile(r"(^|_)(path|dir|file|folder|uri|url|root|vocabulary$)|weights$|host|server")
HARMLESS = {  # names like that of a path, that are none
    "idf_weights",
    "label_weights",
    "loss_weights",
    "restore_best_weights",
    "tie_weights",
}


def configuration(**sections):
    loss = {"_target_": "keras.losses.MeanSquaredError"}
    return check(OmegaConf.create({"epochs": 1, "optimizer": "sgd", "loss": loss, **sections}))


def said(config, *words):
    return replace(config, said=said_by(words))


def mlflow(uri, *words):
    section = {"_target_": "looplab.loggers.MLflow", "tracking_uri": uri}
    return said(configuration(loggers={"more": {"x": section}}), *words)


def source(target, *words, **given):
    return said(configuration(data={"source": {"_target_": f"looplab.data.{target}", **given}}), *words)


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
        *(mlflow(None), mlflow("databricks", "loggers.more.x.tracking_uri=databricks")),
        mlflow("sqlite:////tmp/mlflow.db", "loggers.more.x={tracking_uri: sqlite:////tmp/mlflow.db}"),
        configuration(callbacks={"x": {"_target_": "looplab.examples.gan.Judge"}}),
        configuration(loggers={"more": {"x": {"_target_": "looplab.loggers.WandB", "mode": "offline"}}}),
        source("records", files="x", parse="x"),
        source("records", "data.source.index_dir=/i", files="x", parse="x", index_dir="/i"),
        source("image_folder", directory="x/../images"),
        source("image_folder", "data.source.directory=/data/images", directory="/data/images"),
        source("table", "+experiment=x", "vars.root=/data", path="/data/a/b.csv"),
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


def test_a_path_of_the_run_directory_is_as_good_as_a_relative_one(tmp_path):
    inside = {"_target_": "keras.callbacks.CSVLogger", "filename": f"{tmp_path}/a.csv"}
    table = {"_target_": "looplab.loggers.Csv", "filename": f"{tmp_path}/b.csv"}
    config = configuration(callbacks={"x": inside}, loggers={"more": {"y": table}})
    write_limits.check(config, tmp_path)
    placed = write_limits.placed(config, tmp_path)
    assert placed.callbacks["x"]["filename"] == f"{tmp_path}/callbacks/a.csv"
    assert placed.loggers.more["y"]["filename"] == "b.csv"
    with pytest.raises(Refused, match=r"callbacks\.x\.filename"):
        write_limits.check(configuration(callbacks={"x": inside}), tmp_path / "other")


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


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (mlflow("http://elsewhere.example"), "loggers.more.x.tracking_uri"),
        (mlflow("sqlite:///mlflow.db", "+experiment=x", "loggers=mlflow"), "loggers.more.x.tracking_uri"),
        (source("records", files="x", parse="x", index_dir="i"), "data.source.index_dir"),
        (source("records", files=["x", "../y"], parse="x"), "data.source.files[1]"),
        (source("records", files="gs://bucket/x", parse="x"), "data.source.files"),
        (source("image_folder", directory="/etc"), "data.source.directory"),
        (source("image_folder", directory="~"), "data.source.directory"),
        (source("image_folder", "data=image_folder", directory="/etc"), "data.source.directory"),
        (source("image_folder", "+x=/etc/ssl", directory="/etc"), "data.source.directory"),
        (source("image_folder", "+x=/data", directory="/data/../etc"), "data.source.directory"),
        (
            source("image_folder", "data.source.directory='${vars.d}'", directory="/etc"),
            "data.source.directory",
        ),
        (source("table", path="x.csv", validation={"a": "/etc/passwd"}), "data.source.validation.a"),
        (source("tfds", name="x", split="x", download=True), "data.source.download"),
        (source("tfds", name="x", split="x", data_dir="d"), "data.source.data_dir"),
        (
            configuration(
                model={"_target_": "keras.Sequential", "layers": [
                    {"_target_": "keras.layers.StringLookup", "vocabulary": "/etc/passwd"}]}
            ),
            "model.layers[0].vocabulary",
        ),
        (
            configuration(model={"_target_": "keras.applications.MobileNet", "weights": "/etc/passwd"}),
            "model.weights",
        ),
    ],
)  # fmt: skip
def test_what_only_the_user_decides_is_refused_in_a_file_by_both_phases(config, key, tmp_path):
    assert [problem.key for problem in targets.check(config)] == [key]
    with pytest.raises(Refused) as caught:
        write_limits.check(config, tmp_path)
    assert [problem.key for problem in caught.value.problems] == [key]


def every_target():
    """Every class and function that a configuration can name, of looplab and of Keras."""
    modules = (
        keras.callbacks,
        keras.layers,
        keras.losses,
        keras.metrics,
        keras.optimizers,
        keras.initializers,
    )
    modules += (keras.regularizers, keras.constraints, keras.optimizers.schedules, keras.applications)
    named = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    named |= {value for value in vars(keras.applications).values() if inspect.isfunction(value)}
    return sorted(named | set(registered()), key=repr)


def test_no_path_is_forgotten():
    """A path among the arguments of a target, of Keras too, has its limits."""
    for target in every_target():
        path = f"{target.__module__}.{target.__qualname__}"
        if path in foreign_targets.REFUSED or (
            isinstance(target, type) and issubclass(target, looplab.Trainer)
        ):
            continue  # refused by name; or its arguments are looplab's own to give
        limits = write_limits._limits(target)
        pathlike = {name for name in inspect.signature(target).parameters if PATHLIKE.search(name)} - HARMLESS
        if target in (keras.layers.Embedding, keras.layers.Bidirectional):
            pathlike.discard("weights")  # arrays
        assert pathlike <= limits.reads | limits.writes | limits.user_only, target


def test_keras_is_where_the_list_says():
    bases = {base for own in every_target() for base in getattr(own, "__mro__", ())}
    found = {f"{base.__module__}.{base.__qualname__}" for base in bases}
    assert {*foreign_targets.LIMITS, *foreign_targets.REFUSED} <= found
