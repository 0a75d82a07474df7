"""Every option that looplab ships: composed, checked, and but for whole presets really trained with."""

import math
import sys

import keras
import pytest
import tensorflow as tf
import yaml

import looplab
from looplab import config, experiment
from looplab.config import reference, targets
from looplab.config.compose import compose, understood
from looplab.config.user_words import said_by
from looplab.errors import ConfigurationError
from tests.process import PROJECT, write

CONF = config.directory()
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [(group, option) for group in GROUPS for option in sorted(p.stem for p in (CONF / group).iterdir())]
FILES = sorted(CONF.rglob("*.yaml"))
# Tested on their own: two need hardware, and determinism would stay on (tests/test_devices.py).
OF_THEIR_OWN = {("strategy", "mirrored"), ("strategy", "tpu"), ("devices", "deterministic")}
ELSEWHERE = {"debug", "sweep"}  # each choice of these is a way of running, with tests of its own
DIGITS = ["experiment=digits", "epochs=null", "data.batch_size=300", "model.filters=[2]"]
STEPS = 2
TINY = {
    "mine.py": PROJECT["mine.py"]
    + """

class Made(looplab.Trainer):
    def make_batch(self, step):
        return points(10)["train"]
""",
    "conf/experiment/tiny.yaml": """
# @package _global_
# What every option is added to.
model: {_target_: mine.Net}
data:
  source: {_target_: mine.points}
  batch_size: 10
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
""",
    "conf/experiment/bare.yaml": """
# @package _global_
# What the options of data are added to.
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
""",
    "points.csv": "a,b,kind\n" + "0.5,1,up\n-0.5,2,down\n" * 5,
}


def optimizer(kind, **settings):
    def check(trainer, config):
        (made,) = trainer.optimizers.values()
        assert type(made) is kind
        assert {name: getattr(made, name) for name in settings} == settings

    return check


def rates(*expected):
    """The schedule's rates before the first update and at the end."""

    def check(trainer, config):
        (made,) = trainer.optimizers.values()
        base = made._learning_rate.base
        rate = base if callable(base) else lambda step: base
        assert [float(rate(step)) for step in (0, STEPS)] == pytest.approx(expected, abs=1e-8)

    return check


def dtypes(compute, variable):
    def check(trainer, config):
        assert trainer.model.outer.compute_dtype == compute
        assert {v.dtype for v in trainer.model.trainable_variables} == {variable}

    return check


def execution(mode, *, eagerly, at_once):
    def check(trainer, config):
        assert (trainer._engine.modes.mode, config.execution.run_eagerly) == (mode, eagerly)
        assert config.execution.steps_per_execution == at_once

    return check


def strategy(name, replicas):
    def check(trainer, config):
        assert config.strategy.name == name
        assert trainer.strategy.num_replicas_in_sync == replicas

    return check


def settings(section, **expected):
    def check(trainer, config):
        found = getattr(config, section)
        assert {name: getattr(found, name) for name in expected} == expected

    return check


def model(kind):
    def check(trainer, config):
        assert type(trainer.model).__name__ == kind

    return check


def logger(kind):
    def check(trainer, config):
        assert [type(made).__name__ for made in trainer._preparation.recording.loggers] == [kind]

    return check


def example(kind):
    def check(trainer, config):
        assert type(trainer).__name__ == kind

    return check


def default_trainer(trainer, config):
    assert type(trainer) is looplab.Trainer


def callback(kind):
    def check(trainer, config):
        (made,) = trainer._preparation.callbacks
        assert type(made).__name__ == kind

    return check


def no_callbacks(trainer, config):
    assert not config.callbacks


# group/option -> (more words, what must then be true of the trained trainer and the checked configuration).
CASES = {
    ("callbacks", "early_stopping"): ([], callback("EarlyStopping")),
    ("callbacks", "histograms"): ([], callback("Histograms")),
    ("callbacks", "learning_rate"): ([], callback("LearningRateMonitor")),
    ("callbacks", "none"): ([], no_callbacks),
    ("callbacks", "norms"): ([], callback("Norms")),
    ("callbacks", "time_limit"): ([], callback("TimeLimit")),
    ("checkpoint", "default"): ([], settings("checkpoint", every="1ep", keep_last=2, keep_best=1)),
    ("data", "digits"): (DIGITS, settings("data", batch_size=300)),
    ("data", "image_folder"): (["experiment=bare", "data.source.directory=images", "model=convnet",
                                "data.source.image_size=[8,8]", "data.source.color_mode=grayscale",
                                "model.filters=[2]"], settings("data", batch_size=32)),
    ("data", "table"): (["experiment=bare", "data.source.path=points.csv", "data.source.target=kind",
                         "data.validation_split=0.2", "++model={_target_: mine.Net}"],
                        settings("data", batch_size=32, validation_split=0.2)),
    ("data", "none"): (["data.source=null", "data.batch_size=null", "trainer._target_=mine.Made"],
                       settings("data", source=None)),
    ("devices", "default"): ([], settings("devices", tf32=True, deterministic=False)),
    ("execution", "auto"): ([], execution("graph", eagerly=False, at_once="auto")),
    ("execution", "xla_loop"): ([], execution("xla_loop", eagerly=False, at_once="auto")),
    ("execution", "eager"): ([], execution("graph", eagerly=True, at_once=1)),
    ("execution", "graph"): ([], execution("graph", eagerly=False, at_once="auto")),
    ("execution", "xla_step"): ([], execution("xla_step", eagerly=False, at_once="auto")),
    ("experiment", "contrastive"): (
        ["experiment=contrastive", "epochs=null", "model.filters=[8]"], example("MomentumContrast")),
    ("experiment", "digits"): (DIGITS, model("ConvNet")),
    ("experiment", "gan"): (["experiment=gan", "epochs=null"], example("GAN")),
    ("experiment", "vae"): (["experiment=vae", "epochs=null"], example("VAE")),
    ("experiment", "wgan_gp"): (["experiment=wgan_gp", "epochs=null"], example("WGANGP")),
    ("experiment", "forecaster"): (["experiment=forecaster", "epochs=null", "model.units=2"],
                                   model("Forecaster")),
    ("experiment", "ppo"): (["experiment=ppo", "epochs=null", "trainer.rollout=20", "trainer.passes=1"],
                            model("ActorCritic")),
    ("experiment", "reinforce"): (["experiment=reinforce", "epochs=null", "trainer.episodes=2"],
                                  model("Policy")),
    ("experiment", "autoencoder"): (["experiment=autoencoder", "epochs=null", "model.width=8"],
                                    example("Denoiser")),
    ("experiment", "vq_vae"): (["experiment=vq_vae", "epochs=null", "model.width=8"], example("Codebook")),
    ("loggers", "csv"): ([], logger("Csv")),
    ("loggers", "mlflow"): (["loggers.more.mlflow.tracking_uri=sqlite:///mlflow.db"], logger("MLflow")),
    ("loggers", "wandb"): (["loggers.more.wandb.mode=offline"], logger("WandB")),
    ("loggers", "default"): ([], settings("loggers", every="10st", verbose="auto")),
    ("model", "convnet"): (DIGITS, model("ConvNet")),
    ("model", "none"): ([], model("Net")),
    ("optimizer", "adam"): ([], optimizer(keras.optimizers.Adam)),
    ("optimizer", "adamw"): ([], optimizer(keras.optimizers.AdamW, weight_decay=0.004)),
    ("optimizer", "none"): (["++optimizer={model: {_target_: keras.optimizers.SGD, momentum: 0.9}}"],
                            optimizer(keras.optimizers.SGD, momentum=0.9)),
    ("optimizer", "sgd"): ([], optimizer(keras.optimizers.SGD, momentum=0.9)),
    ("precision", "float32"): ([], dtypes("float32", "float32")),
    ("precision", "float64"): ([], dtypes("float64", "float64")),
    ("precision", "mixed_bfloat16"): ([], dtypes("bfloat16", "float32")),
    ("precision", "mixed_float16"): ([], dtypes("float16", "float32")),
    ("schedule", "constant"): ([], rates(0.001, 0.001)),
    ("schedule", "cyclic"): (["schedule.cycle_steps=4"], rates(0.0001, 0.001)),
    ("schedule", "exponential"): (["schedule.decay_steps=1", "schedule.decay_rate=0.5"],
                                  rates(0.001, 0.00025)),
    ("schedule", "piecewise"): (["schedule.boundaries=[1,2]"], rates(0.001, 0.00001)),
    ("schedule", "polynomial"): (["schedule.end_learning_rate=0.0005"], rates(0.001, 0.0005)),
    ("schedule", "warmup"): (["++schedule.schedule={_target_: keras.optimizers.schedules.CosineDecay}",
                              "schedule.warmup_steps=1"], rates(0.0005, 0.0)),
    ("schedule", "warmup_cosine"): (["schedule.warmup_steps=1", "schedule.floor=0.1"], rates(0.0005, 0.0001)),
    ("strategy", "auto"): ([], strategy("auto", 1)),
    ("strategy", "one_device"): ([], strategy("one_device", 1)),
    ("strategy", "simulated"): ([], strategy("simulated", 2)),
    ("trainer", "default"): ([], default_trainer),
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny project in the working directory, whose module stays imported from test to test."""
    folder = tmp_path_factory.mktemp("tiny")
    write(folder, TINY)
    for kind in ("dark", "light"):
        (folder / "images" / kind).mkdir(parents=True)
        image = tf.fill([9, 9, 1], tf.cast(200 * (kind == "light"), tf.uint8))
        (folder / "images" / kind / "1.png").write_bytes(tf.io.encode_png(image).numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for name in ("MLFLOW_DISABLE_TELEMETRY", "WANDB_SILENT"):
            patch.setenv(name, "true")
        yield folder
    sys.modules.pop("mine", None)


def composed(group, option, *words):
    """What the command would check first: the composition, and the words of it that are wrong."""
    base = [] if any(word.startswith("experiment=") for word in words) else ["experiment=tiny"]
    chosen = [] if group == "experiment" else [f"{group}={option}"]
    found = compose(understood([*base, *chosen, f"steps={STEPS}", *words]))
    assert found.problems == ()
    assert found.choices[group] == option
    return found.config


def checked(group, option, *words):
    settled = config.check(composed(group, option, *words), said_by(words))
    assert targets.check(settled) == []
    return settled


def named(pair):
    return "=".join(pair)


def test_every_option_has_a_case_and_every_case_an_option():
    here = {pair for pair in OPTIONS if pair[0] not in ELSEWHERE}
    assert here - OF_THEIR_OWN == set(CASES)


@pytest.fixture(scope="module")
def train(project):
    """Trains what a configuration describes; the defaults of all groups are one and the same run."""
    done = {}

    def once(settled):
        key = repr(settled)
        if key not in done:
            trainer, data = experiment.build(settled, None)
            history = trainer.fit(
                data.get("train"),
                validation_data=data.get("validation"),
                batch_size=settled.data.batch_size,
                shuffle=settled.data.shuffle,
                steps=settled.steps,
                verbose=0,
            )
            done[key] = trainer, history
        return done[key]

    return once


@pytest.mark.share(3)
@pytest.mark.parametrize("pair", CASES, ids=named)
def test_an_option_trains(train, pair):
    words, holds = CASES[pair]
    settled = checked(*pair, *words)
    trainer, history = train(settled)
    assert int(trainer.step.numpy()) == STEPS
    losses = [series for name, series in history.history.items() if name.split("/")[-1] == "loss"]
    assert losses and all(math.isfinite(value) for series in losses for value in series), history.history
    holds(trainer, settled)


def test_mirrored_trains_on_gpus_and_is_refused_without_them(project):
    settled = checked("strategy", "mirrored")
    if tf.config.list_logical_devices("GPU"):
        trainer, data = experiment.build(settled, None)
        trainer.fit(data["train"], batch_size=settled.data.batch_size, steps=STEPS, verbose=0)
        assert trainer.strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("GPU"))
    else:
        with pytest.raises(ConfigurationError, match=r"'mirrored' needs GPUs.*'simulated'"):
            experiment.build(settled, None)


def test_tpu_is_refused_without_one(project):
    with pytest.raises(ConfigurationError, match=r"'tpu' found no TPU at 'local'.*tensorflow-tpu 2\.20\.0"):
        experiment.build(checked("strategy", "tpu"), None)


@pytest.mark.slow
def test_ways_of_running_compose(project):
    for group, option in OPTIONS:
        if group in ELSEWHERE:
            assert composed(group, option) is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_a_file_is_at_most_a_screen_and_begins_with_what_it_is(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    if file.parent != CONF:  # train.yaml has the text of --help too
        assert len(lines) <= 40
    if lines[0].startswith("# @package "):
        del lines[0]
    assert lines[0].startswith("# "), "say in the first line what is chosen here"
    assert len(lines[0]) <= 125
    yaml.safe_load("\n".join(lines))


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "experiment"])
def test_an_experiment_is_described_by_one_line(option):
    assert f"  {option}  " in reference.experiments()
    first, second, third = (CONF / "experiment" / f"{option}.yaml").read_text("utf-8").splitlines()[:3]
    assert first == "# @package _global_"
    assert second.startswith("# ") and not third.startswith("#")
