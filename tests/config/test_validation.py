"""The schema: what it takes, what it refuses and in which words."""

import operator
from dataclasses import is_dataclass

import keras
import pytest
from omegaconf import OmegaConf

from looplab import config
from looplab.config import diff, reference, schema
from looplab.config.validation import keys_of, kind_of
from looplab.errors import ConfigurationError
from looplab.options.distribution import PRECISIONS, STRATEGIES
from looplab.options.execution import MODES
from looplab.strategy import precision, strategies

GOOD = {"epochs": 2}


def refused(**composed):
    with pytest.raises(ConfigurationError) as caught:
        config.check(OmegaConf.create({**GOOD, **composed}))
    return str(caught.value)


def test_every_key_has_a_default_but_the_length():
    checked = config.check(OmegaConf.create(GOOD))
    assert checked.checkpoint.every == "1ep"
    assert checked.strategy.name == "auto"
    assert checked.seed == 0


def test_interpolations_are_resolved_but_written_as_they_are():
    composed = OmegaConf.create({"epochs": 2, "seed": "${epochs}"})
    assert config.check(composed).seed == 2
    assert diff.written(composed, "x")["seed"] == "${epochs}"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"steps": 1e3, "epochs": None}, ("steps", 1000)),
        ({"epochs": "12"}, ("epochs", 12)),
        ({"run_dir": 7}, ("run_dir", "7")),
        ({"allow_change": "optimizer"}, ("allow_change", ["optimizer"])),
        ({"loggers": {"verbose": "0"}}, ("loggers.verbose", 0)),
        ({"data": {"shuffle": "off"}}, ("data.shuffle", False)),
        ({"data": {"validation": "none"}}, ("data.validation", "none")),
        (
            {"data": {"validation_freq": {"a": 2, "b": "15st"}}},
            ("data.validation_freq", {"a": "2ep", "b": "15st"}),
        ),
        (
            {"data": {"validation_steps": {"a": "3", "b": None}}},
            ("data.validation_steps", {"a": 3, "b": None}),
        ),
    ],
    ids=str,
)
def test_what_an_environment_variable_or_a_command_line_makes_of_a_value_is_understood(given, read):
    checked = config.check(OmegaConf.create({**GOOD, **given}))
    key, value = read
    found = operator.attrgetter(key)(checked)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.promise(40)
@pytest.mark.parametrize(
    ("composed", "words"),
    [
        ({"epohcs": 3}, ["epohcs: there is no such key in the configuration", "Did you mean 'epochs'?"]),
        ({"checkpoint": {"evry": 1}}, ["checkpoint.evry", "keep_last", "Did you mean 'every'"]),
        ({"epochs": "abc"}, ["epochs: expected a whole number of at least 1 or null, got 'abc'."]),
        ({"epochs": 1.5}, ["epochs: expected a whole number", "got 1.5"]),
        ({"data": {"shuffle": "maybe"}}, ["data.shuffle: expected true or false, got 'maybe'"]),
        ({"data": 3}, ["data: expected a section with the keys source, batch_size", "got 3"]),
        ({"strategy": None}, ["strategy: expected a section", "null"]),
        ({"epochs": 2, "steps": 3}, ["epochs=2 and steps=3", "epochs=null"]),
        ({"epochs": None}, ["the length of training is missing"]),
        ({"epochs": 0}, ["epochs: expected a whole number of at least 1 or null, got 0"]),
        ({"epochs": None, "steps": -5}, ["steps: expected a whole number of at least 1", "got -5"]),
        ({"seed": -1}, ["seed: expected a whole number from 0 to 4294967295, got -1"]),
        ({"seed": 2**32}, ["seed: expected a whole number from 0 to 4294967295"]),
        ({"resume": "lastest"}, ["resume: expected one of auto, latest, never", "'latest'?"]),
        ({"strategy": {"name": "mirored"}}, ["strategy.name", "'mirored'", "Did you mean 'mirrored'?"]),
        ({"strategy": {"replicas": 2}}, ["strategy.replicas: 2 works only with", "'auto'"]),
        ({"strategy": {"address": "mine"}}, ["strategy.address: mine works only with", "'auto'"]),
        ({"strategy": {"name": "tpu"}, "precision": {"policy": "float64"}}, ["precision.policy: float64"]),
        ({"devices": {"memory_growth": 1}}, ["devices.memory_growth: expected true or false"]),
        ({"strategy": {"name": "simulated", "replicas": 0}}, ["strategy.replicas: expected a whole number"]),
        ({"precision": {"policy": "float16"}}, ["precision.policy: expected one of float32, float64, mixed"]),
        ({"execution": {"mode": "grph"}}, ["execution.mode: expected one of auto, graph, ", "got 'grph'"]),
        ({"execution": {"micro_batches": 0}}, ["micro_batches: expected 'auto' or a whole number"]),
        ({"execution": {"steps_per_execution": "many"}}, ["steps_per_execution", "'auto'", "'many'"]),
        ({"execution": {"steps_per_execution": 0}}, ["steps_per_execution: expected 'auto' or a whole"]),
        ({"checkpoint": {"every": "10 hours"}}, ["checkpoint.every: expected a positive interval"]),
        ({"checkpoint": {"mode": "maximum"}}, ["checkpoint.mode: expected one of auto, min, max"]),
        ({"checkpoint": {"keep_last": 0}}, ["checkpoint.keep_last: expected a whole number"]),
        ({"loggers": {"every": "5min"}}, ["loggers.every: expected a positive interval", "not reproducible"]),
        ({"loggers": {"verbose": 3}}, ["loggers.verbose: expected one of auto, 0, 1, 2, got 3"]),
        ({"data": {"validation": None}}, ["data.validation: expected one of own, train, none, got null"]),
        ({"data": {"validation_freq": "often"}}, ["expected a positive interval", "; or a mapping from"]),
        (
            {"data": {"validation_freq": {"a": "10min", "b": None}}},
            ["data.validation_freq.a: expected a positive interval", "'10min'. Wall-clock",
             "data.validation_freq.b: expected a positive interval"],
        ),
        ({"data": {"validation_steps": {"a": 0}}}, ["data.validation_steps.a: expected a whole number"]),
        ({"data": {"validation_steps": {"a": "${b}"}}}, ["data.validation_steps.a: cannot be resolved"]),
        ({"data": {"batch_size": 0}}, ["data.batch_size: expected a whole number"]),
        ({"model": {"units": "???"}}, ["model.units: a value is required"]),
        ({"run_dir": "${nowhere}"}, ["run_dir", "'nowhere' not found"]),
        ({"experiment": {"epochs": 3}}, ["experiment", "# @package _global_"]),
        ({"seed": None}, ["seed: expected a whole number", "got null"]),
        ({"epochs": True}, ["epochs: expected a whole number", "got true"]),
        ({"epochs": float("nan")}, ["epochs: expected a whole number", "got nan"]),
        ({"run_dir": ""}, ["run_dir: expected a path or null, got ''"]),
        ({"allow_change": {"a": 1}}, ["allow_change: expected a list of keys, got {'a': 1}"]),
        ({"execution": {"mode": "xla_step", "run_eagerly": True}}, ["execution.mode: xla_step compiles"]),
        ({"execution": {"steps_per_execution": 5, "run_eagerly": True}}, ["set it to 1"]),
        ({"data": {"batch_size": 5}}, ["data.batch_size: 5 has no effect without data.source"]),
        ({"run_dir": "x", "resume": "latest"}, ["resume: latest looks for a run directory"]),
        ({"optimizer": "adam", "schedule": {"_target_": "x"}}, ["schedule: it needs an optimizer"]),
        (
            {"optimizer": {"_target_": "x", "learning_rate": {"_target_": "y"}}, "schedule": {"a": 1}},
            ["optimizer.learning_rate: it is a schedule, but"],
        ),
        ({"seed": "${run_dir}", "run_dir": "${seed}"}, ["seed: cannot be resolved"]),
        ({"allow_change": ["optimizer.lr"], "optimizer": {"learning_rate": 1}}, ["no key 'optimizer.lr'"]),
        ({"schedule": {"warmup_steps": "2eq"}}, ["schedule.warmup_steps: expected a positive"]),
        ({"optimizer": {"a": "adam", "b": {}}, "schedule": {"x": 1}}, ["schedule: it needs an optimizer"]),
        ({"model": {"api_key": 12345}}, ["model.api_key: do not write a secret"]),
        ({"model": {"secret": [{"a": "plain"}]}}, ["model.secret[0].a: do not write", "${oc.env:A}"]),
        ({"model": {"api_key": "${oc.env:HOME,plain}"}}, ["model.api_key: do not write a secret"]),
        ({"model": {"api_key": "plain"}}, ["model.api_key: do not write a secret", "${oc.env:API_KEY}"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_work_is_refused_in_words_that_help(composed, words):
    message = refused(**composed)
    assert [word for word in words if word not in message] == [], message


def test_all_that_is_wrong_is_said_at_once():
    message = refused(epohcs=3, seed=-1, checkpoint={"evry": 1}, data={"shuffle": "maybe"}, run_dir="${x}")
    assert [line.split(":")[0] for line in message.splitlines()] == [
        "run_dir", "epohcs", "seed", "checkpoint.evry", "data.shuffle",
    ]  # fmt: skip


def test_a_secret_comes_from_the_environment_and_does_not_show_itself(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hidden")
    model = {"_target_": "x", "api_key": "${oc.env:MY_KEY}", "pad_token": "<p>"}
    composed = OmegaConf.create({**GOOD, "model": model})
    key = config.check(composed).model["api_key"]
    assert f"{key} {key!r} {[key]}" == "*** '***' ['***']"
    assert (str(key), key.reveal(), "Bearer " + key) == ("***", "hidden", "Bearer hidden")
    assert type(key.reveal()) is str
    assert config.check(composed).model["pad_token"] == "<p>"  # a word of a vocabulary
    composed.model.auth_token = "Bearer ${oc.env:MY_KEY}"
    assert config.check(composed).model["auth_token"].reveal() == "Bearer hidden"
    text = str(diff.written(composed, "x"))
    assert "'Bearer ${oc.env:MY_KEY}'" in text
    assert "${oc.env:MY_KEY}" in text
    assert "hidden" not in text


def test_the_names_are_those_that_are_offered(monkeypatch):
    """They are written once, where it takes no TensorFlow to refuse another."""

    def names(section, key):
        return kind_of(keys_of(section)[key])[0].values

    assert names(schema.Execution, "mode") == ("auto", *MODES)
    assert names(schema.Strategy, "name") == STRATEGIES
    assert names(schema.Precision, "policy") == PRECISIONS
    for name in PRECISIONS:
        with precision.scope(name):
            assert keras.config.dtype_policy().name == name
    monkeypatch.setattr(strategies, "tpu", lambda: "a TPU")
    for name in STRATEGIES:
        if name == "mirrored":  # needs GPUs, and says so
            with pytest.raises(ConfigurationError, match="needs GPUs"):
                strategies.build(name)
        else:
            assert strategies.build(name) is not None


def test_every_key_is_documented_and_in_the_reference():
    shown = reference.keys()
    for section, prefix in [(schema.Config, ""), (schema.Data, "data."), (schema.Policy, "checkpoint.")]:
        assert set(reference.documented(section)) == set(keys_of(section))
        for key, annotation in keys_of(section).items():
            if not is_dataclass(annotation):
                assert f"  {prefix}{key}=" in shown
    assert "seed=0" in shown
    assert "from 0 to 4294967295" in shown
