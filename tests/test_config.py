"""The schema: what it takes, what it refuses and in which words, and where runs go."""

import re

import pytest
from omegaconf import OmegaConf

from looplab import config, execution, precision, strategy
from looplab.errors import ConfigurationError

GOOD = {"epochs": 2}


def refused(**composed):
    with pytest.raises(ConfigurationError) as caught:
        config.check(OmegaConf.create({**GOOD, **composed}))
    return str(caught.value)


def run_directory(tmp_path, experiment="digits", **composed):
    return config.run_directory(OmegaConf.create({"run_dir": None, "resume": "auto", **composed}),
                                experiment, tmp_path)  # fmt: skip


def a_run(path):
    path.mkdir(parents=True)
    (path / "metrics.jsonl").touch()
    return path


def test_every_key_has_a_default_but_the_length():
    checked = config.check(OmegaConf.create(GOOD))
    assert checked.checkpoint.every == "1ep"
    assert checked.strategy.name == "auto"
    assert checked.seed == 0


def test_interpolations_stay_as_they_are_written():
    checked = config.check(OmegaConf.create({"epochs": 2, "seed": "${epochs}"}))
    assert "${epochs}" in OmegaConf.to_yaml(checked)
    assert checked.seed == 2


@pytest.mark.promise(40)
@pytest.mark.parametrize(
    ("composed", "words"),
    [
        ({"epohcs": 3}, ["epohcs: there is no such key in the configuration", "Did you mean 'epochs'?"]),
        ({"checkpoint": {"evry": 1}}, ["checkpoint.evry", "keep_last", "Did you mean 'every'"]),
        ({"epochs": "abc"}, ["epochs", "'abc'", "Integer"]),
        ({"epochs": 1.5}, ["epochs", "'1.5'", "Integer"]),
        ({"data": {"shuffle": "maybe"}}, ["data.shuffle", "'maybe'", "bool"]),
        ({"data": 3}, ["data: expected a section with the keys source, batch_size", "got 3"]),
        ({"strategy": None}, ["strategy: expected a section", "None"]),
        ({"epochs": 2, "steps": 3}, ["epochs=2 and steps=3", "epochs=null"]),
        ({"epochs": None}, ["neither epochs nor steps"]),
        ({"epochs": 0}, ["epochs: must be at least 1, got 0"]),
        ({"epochs": None, "steps": -5}, ["steps: must be at least 1, got -5"]),
        ({"seed": -1}, ["seed: must be from 0 to 4294967295, got -1"]),
        ({"seed": 2**32}, ["seed: must be from 0 to 4294967295"]),
        ({"resume": "lastest"}, ["resume: 'lastest' is not one of auto, latest, never", "'latest'"]),
        ({"strategy": {"name": "mirored"}}, ["strategy.name", "'mirored'", "Did you mean 'mirrored'?"]),
        ({"strategy": {"replicas": 2}}, ["strategy.replicas=2 goes with strategy=simulated only", "'auto'"]),
        ({"strategy": {"name": "simulated", "replicas": 0}}, ["strategy.replicas: must be at least 1"]),
        ({"precision": {"policy": "float16"}}, ["precision.policy: 'float16' is not", "mixed_bfloat16"]),
        ({"execution": {"mode": "grph"}}, ["execution.mode: 'grph'", "graph, xla_step", "'graph'"]),
        ({"execution": {"micro_batches": 0}}, ["execution.micro_batches: must be at least 1"]),
        ({"execution": {"steps_per_execution": "many"}}, ["steps_per_execution", "'auto'", "'many'"]),
        ({"execution": {"steps_per_execution": 0}}, ["steps_per_execution", "got 0"]),
        ({"checkpoint": {"every": "10 hours"}}, ["checkpoint.every: '10 hours' is not an interval", "90min"]),
        ({"checkpoint": {"mode": "maximum"}}, ["checkpoint.mode: 'maximum' is not one of auto, min, max"]),
        ({"checkpoint": {"keep_last": 0}}, ["checkpoint.keep_last: must be at least 1, got 0"]),
        ({"loggers": {"every": "5min"}}, ["loggers.every: 5min is wall-clock time"]),
        ({"loggers": {"verbose": 3}}, ["loggers.verbose: 3 is not one of auto, 0, 1, 2"]),
        ({"data": {"batch_size": 0}}, ["data.batch_size: must be at least 1"]),
        ({"model": {"units": "???"}}, ["model.units", "mandatory value"]),
        ({"run_dir": "${nowhere}"}, ["run_dir", "'nowhere' not found"]),
        ({"experiment": {"epochs": 3}}, ["experiment", "# @package _global_"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_work_is_refused_in_words_that_help(composed, words):
    message = refused(**composed)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message


def test_the_names_are_those_of_the_rooms():
    """They are written in config.py once more, so that it takes no TensorFlow to refuse another."""
    assert config.NAMES["execution.mode"] == execution.MODES
    assert config.NAMES["strategy.name"] == strategy._NAMES
    assert config.NAMES["precision.policy"] == tuple(precision._FLOATX)


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("model.units", True),
        ("data.source.rows", True),
        ("callbacks.mine._target_", True),
        ("checkpoint.every", False),
        ("data.sauce", False),
        ("epohcs", False),
        ("nothing.such", False),
    ],
)
def test_keys_of_someones_own_class_are_free(key, free):
    assert config.is_free(key) == free


def test_a_run_is_named_by_its_experiment_and_the_time(tmp_path):
    run_dir = run_directory(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run_dir.name)
    assert run_dir.parent == tmp_path / "digits"
    assert not run_dir.parent.exists()


def test_two_runs_of_one_second_have_two_directories(tmp_path, monkeypatch):
    class Frozen(config.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(config, "datetime", Frozen)
    names = [a_run(run_directory(tmp_path)).name for _ in range(12)]
    assert names[:3] == ["2026-01-02_03-04-05", "2026-01-02_03-04-05_1", "2026-01-02_03-04-05_2"]
    assert run_directory(tmp_path, resume="latest").name == names[-1] == "2026-01-02_03-04-05_11"


def test_latest_is_the_newest_directory_that_holds_a_run(tmp_path):
    assert run_directory(tmp_path, resume="latest").parent == tmp_path / "digits"
    newest = a_run(tmp_path / "digits" / "2026-01-02_03-04-05")
    a_run(tmp_path / "digits" / "2025-12-31_03-04-05_7")
    a_run(tmp_path / "another" / "2026-02-01_03-04-05")
    (tmp_path / "digits" / "2026-05-01_00-00-00").mkdir()  # nobody trained there
    assert run_directory(tmp_path, resume="latest") == newest


def test_never_refuses_a_directory_that_holds_a_run(tmp_path):
    assert run_directory(tmp_path, run_dir=tmp_path, resume="never") == tmp_path
    run = a_run(tmp_path / "mine")
    with pytest.raises(ConfigurationError, match=r"resume=never, but .*mine holds a run.*resume=auto"):
        run_directory(tmp_path, run_dir=run, resume="never")


def test_a_run_directory_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"run_dir: .*file/x cannot be a folder, since .*file is"):
        run_directory(tmp_path, run_dir=tmp_path / "file" / "x")


@pytest.mark.parametrize("name", ["../evil", "", "a b", ".hidden", "a" * 200])
def test_an_experiment_whose_name_is_no_folder_needs_a_run_directory(tmp_path, name):
    with pytest.raises(ConfigurationError, match="cannot name a folder; give run_dir"):
        run_directory(tmp_path, experiment=name)
    assert run_directory(tmp_path, experiment=name, run_dir=tmp_path / "x") == tmp_path / "x"
