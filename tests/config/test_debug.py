"""The presets of conf/debug/, over experiments of every kind, as `+debug=NAME` composes them."""

import re
import sys

import hydra
import pytest
import tensorflow as tf

import looplab
from looplab import config, experiment
from looplab.config import diff
from tests.process import PROJECT, read_json, records, snapshot, steps, trained, write

KINDS = {
    "kinds.py": """
import threading
import numpy as np
import tensorflow as tf
import looplab
import mine

X, Y = mine.points()["train"]


@looplab.configurable
def stream(length=9):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(50, seed=1).batch(5)
    return {"train": data.repeat(), "validation": data.take(length)}


@looplab.configurable
def endless():
    return {"train": stream()["train"]}


@looplab.configurable
def mixed_up():
    return {"train": (X * 0, np.arange(len(X)) % 2)}  # nothing tells one label from the other


class Makes(looplab.Trainer):
    def make_batch(self, step):
        return X[:7] + 0.01 * step, Y[:7]


class Breaks(looplab.Trainer):
    seen = []

    def train_step(self, batch):
        self.seen.append((tf.executing_eagerly(), threading.current_thread() is threading.main_thread()))
        return self.minimize(self.compute_loss, batch)
""",
    "conf/experiment/stream.yaml": """
# @package _global_
defaults:
  - mine
  - override /schedule: warmup_cosine
epochs: 50
data: {source: {_target_: kinds.stream}, batch_size: null, steps_per_epoch: 1000}
schedule: {warmup_steps: 10ep}
""",
    "conf/experiment/endless.yaml": """
# @package _global_
defaults: [mine]
epochs: null
steps: 100000
data: {source: {_target_: kinds.endless}, batch_size: null, steps_per_epoch: 500}
""",
    "conf/experiment/made.yaml": """
# @package _global_
defaults: [mine]
epochs: null
steps: 100000
data: {source: null, batch_size: null}
trainer: {_target_: kinds.Makes}
""",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with experiments of every kind."""
    write(tmp_path, {**PROJECT, **KINDS})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [n for n, m in sys.modules.items() if str(tmp_path) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]


def run(project, kind, preset, *words):
    """Runs an experiment with a preset in this process; returns the run directory."""
    words = [f"+experiment={kind}", f"+debug='{preset}'", *words, f"hydra.searchpath=[file://{project}/conf]"]
    with hydra.initialize_config_dir(str(config.directory()), version_base="1.3"):
        composed = hydra.compose("train", words)
    experiment.run(config.check(composed), project / "run", diff.written(composed, "debug"))
    return project / "run"


def said(run_dir):
    return (run_dir / "log.txt").read_text()


def test_every_preset_says_in_its_first_line_what_it_is():
    presets = sorted(config.directory().glob("debug/*.yaml"))
    assert [preset.stem for preset in presets] == ["eager", "fast", "nan", "overfit", "profile"]
    for preset in presets:
        first, second, *rest = preset.read_text().splitlines()
        assert first == "# @package _global_"
        assert re.fullmatch(r"# [A-Z].+\.", second) or re.fullmatch(r"# [A-Z].+[.?].+\.", second)
        assert len(rest) < 30


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", ["mine", "stream", "endless", "made"])
def test_fast_is_a_few_steps_of_everything(project, kind):
    run_dir = run(project, kind, "fast")
    assert steps(run_dir) == [3, 6]
    found = records(run_dir)
    assert [r["step"] for r in found if "loss" in r["values"]] == [1, 2, 3, 4, 5, 6]
    evaluated = [r["step"] for r in found if r["split"] == "validation"]
    assert evaluated == ([3, 6] if kind in ("mine", "stream") else [])
    assert said(run_dir).count("was read back: the same bits") == 2
    assert read_json(run_dir / "outcome.json")["status"] == "finished"


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", ["stream", "plain"])
def test_fast_has_the_learning_rates_of_the_whole_run(project, kind):
    own = "\n".join([
        "# @package _global_", "defaults: [mine, {override /schedule: warmup_cosine}]", "epochs: 30",
        "schedule: {warmup_steps: 4}",
    ])  # fmt: skip
    write(project, {"conf/experiment/plain.yaml": own})
    found = records(run(project, kind, "fast"))
    rates = [r["values"]["learning_rate"] for r in found if "learning_rate" in r["values"]]
    warmup, total = (10_000, 50_000) if kind == "stream" else (4, 30 * 5)
    whole = looplab.schedule.WarmupCosine(0.01, total, warmup)
    assert rates == pytest.approx([float(whole(step)) for step in (2, 5)], rel=1e-5)  # of steps 3 and 6


@pytest.mark.slow
def test_fast_reads_no_more_than_its_batches(project):
    run_dir = run(project, "mine", "fast")
    assert "30 examples shuffled by index, batch 10, 3 steps an epoch" in said(run_dir)
    assert "20 examples in order, batch 10, 2 steps an epoch" in said(run_dir)


@pytest.mark.slow
def test_a_preset_never_goes_on_with_another_run(project):
    run_dir = run(project, "mine", "fast")
    before = snapshot(run_dir)
    for preset in ("fast", "overfit", "eager", "nan", "profile"):
        with pytest.raises(looplab.ConfigurationError, match="holds a run"):
            run(project, "mine", preset)
    assert snapshot(run_dir) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mine", "stream", "endless"])
def test_overfit_says_that_a_model_can_learn_a_batch(project, kind):
    run_dir = run(project, kind, "overfit", "optimizer.learning_rate=0.1")
    verdict = re.search(
        r"the loss fell from (\S+) to (\S+) in 200 steps: this model can learn", said(run_dir)
    )
    assert float(verdict[2]) < 0.1 * float(verdict[1])
    found = records(run_dir)
    rates = {r["values"]["learning_rate"] for r in found if "learning_rate" in r["values"]}
    assert len(rates) == 1  # not the schedule that the experiment has
    means = [r["values"]["epoch_loss"] for r in found if r["split"] == "validation"]
    assert len(means) == (0 if kind == "endless" else 10)
    if means:  # evaluated on the very batch: the loss before the last update, nearly
        assert means[-1] == pytest.approx(float(verdict[2]), rel=0.2)


@pytest.mark.slow
def test_overfit_says_what_to_suspect(project):
    words = ["data.source._target_=kinds.mixed_up", "optimizer.learning_rate=0.1"]
    run_dir = run(project, "mine", "overfit", *words)
    assert re.search(
        r"warning: the loss did not fall, from \S+ to 0\.6931 in 200 steps: suspect", said(run_dir)
    )


def test_eager_runs_where_a_breakpoint_works(project):
    words = ["strategy=simulated", "execution=xla_step", "trainer._target_=kinds.Breaks"]
    run(project, "mine", "eager", *words[2:])
    seen = sys.modules["kinds"].Breaks.seen
    assert seen[-4:] == [(True, True)] * 4


def test_eager_wins_over_what_the_experiment_says(project):
    own = "\nexecution: {mode: xla_step}\nstrategy: {name: simulated, replicas: 2}\n"
    write(project, {"conf/experiment/own.yaml": KINDS["conf/experiment/endless.yaml"] + own})
    run_dir = run(project, "own", "eager", "trainer._target_=kinds.Breaks")
    assert sys.modules["kinds"].Breaks.seen[-4:] == [(True, True)] * 4
    assert read_json(run_dir / "environment.json")["execution"] == {"mode": "graph", "run_eagerly": True}


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", ["mine", "made"])
def test_profile_leaves_what_tensorboard_shows(project, kind):
    run_dir = run(project, kind, "profile")
    train = run_dir / "tensorboard" / "train"
    (profile,) = train.glob("plugins/profile/*/*.xplane.pb")
    assert b"train_step" in profile.read_bytes() or profile.stat().st_size > 1000
    (events,) = train.glob("events.*")  # a second file would end TensorBoard's reading of the first
    assert events.name.endswith(".looplab")
    assert f"a profile of steps 21 to 40 is in {train}" in said(run_dir)
    assert steps(run_dir)[-1] == 40
    tf.profiler.experimental.start(str(project / "free"))  # refused if one were running
    tf.profiler.experimental.stop(save=False)


@pytest.mark.slow
def test_the_command_takes_a_preset(tmp_path):
    write(tmp_path, PROJECT)
    told = trained("experiment=mine", "+debug=fast", cwd=tmp_path)
    assert "step-00000006 was read back: the same bits" in told
