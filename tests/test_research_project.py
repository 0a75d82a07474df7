"""A research project of someone's own, run by an installed looplab: model, trainer, data and all else."""

import shutil
import zipfile

import pytest
import yaml

from tests.process import ROOT, arrays, read_json, records, snapshot, steps, train, write
from tests.test_packaging import build
from tests.test_train import WITNESS

MINE = '''
import keras
import numpy as np
import tensorflow as tf
import looplab


class Tower(keras.Model):
    """A hidden layer and ten outputs."""

    def __init__(self, width, activation="relu"):
        super().__init__()
        self.hidden = keras.layers.Dense(width, activation)
        self.logits = keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.logits(self.hidden(x))


class Softened(looplab.Trainer):
    """Divides the outputs by a temperature."""

    def __init__(self, *args, temperature=1.0, report=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature, self.report = temperature, report

    def train_step(self, batch):
        logs = self.minimize(self.compute_loss, batch)
        return {**logs, "temperature": self.temperature} if self.report else logs


class Margin(keras.losses.Loss):
    """A hinge between the right output and the others."""

    def __init__(self, width=1.0, name="margin"):
        super().__init__(name=name)
        self.width = width

    def call(self, y_true, y_pred):
        right = keras.ops.take_along_axis(y_pred, keras.ops.reshape(y_true, (-1, 1)), axis=-1)
        return keras.ops.sum(keras.ops.relu(self.width + y_pred - right), axis=-1)


class Steps(keras.optimizers.schedules.LearningRateSchedule):
    """Falls by half after some steps."""

    def __init__(self, start, after_steps):
        self.start, self.after_steps = start, after_steps

    def __call__(self, step):
        return tf.where(step < self.after_steps, self.start, self.start / 2)

    def get_config(self):
        return {"start": self.start, "after_steps": self.after_steps}


class Counting(looplab.Callback):
    """Counts the evaluations of a run."""

    def __init__(self, say):
        self.say, self.seen = say, 0

    def on_evaluate(self, event, controls):
        self.seen += 1
        print(f"{self.say} {self.seen}")

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]


@looplab.configurable
def points(rows, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 4)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    return {"train": (x, y), "validation": (x[:20], y[:20])}
'''
EXPERIMENT = """
# @package _global_
# three classes of points, a margin, and a rate that falls
defaults:
  - override /model: own
  - override /optimizer: sgd

epochs: 2
metrics: [accuracy]
loss: {_target_: mine.Margin, width: 0.5}
data:
  source: {_target_: mine.points, rows: 40}
  batch_size: 10
schedule: {_target_: mine.Steps, start: 0.1, after_steps: 2ep}
callbacks:
  counting: {_target_: mine.Counting, say: evaluations}
trainer:
  _target_: mine.Softened
  temperature: 2.0
  report: true
"""
OWN = "# A tower as wide as you like.\n_target_: mine.Tower\nwidth: 8\n"


def project(folder, module="mine.py", name="mine"):
    """Writes the project; its module may be elsewhere and have another name."""
    files = {module: MINE, "conf/experiment/mine.yaml": EXPERIMENT, "conf/model/own.yaml": OWN}
    write(folder, {path: text.replace(": mine.", f": {name}.") for path, text in files.items()})
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs the command as an installed wheel does: nothing of the checkout comes before it on its path.

    It is forked from a process that has imported the wheel, without TensorFlow unless it `trains`.
    """
    folder = tmp_path_factory.mktemp("installed")
    site = folder / "site-packages"
    with zipfile.ZipFile(build("wheel", ROOT, folder / "built")) as wheel:
        wheel.extractall(site)
    write(folder / "witness", WITNESS)
    told = folder / "told"

    def run(*words, cwd, path=(), trains=False):
        places = ":".join(map(str, [*path, site, folder / "witness"]))
        served = {"python": ("-P",), "path": site, "light": not trains}
        code, said = train(*words, cwd=cwd, served=served, PYTHONPATH=places, WITNESS=str(told))
        heavy, origin, _ = told.read_text().splitlines()
        assert origin == str(site / "looplab" / "__init__.py")
        return code, said, heavy

    return run


def shapes(run_dir):
    return {array.shape for path, array in arrays(run_dir).items() if path.startswith("models/")}


@pytest.fixture(scope="module")
def ran(installed, tmp_path_factory):
    """The project, its first run, and what that said."""
    folder = project(tmp_path_factory.mktemp("research"))
    code, said, _ = installed("experiment=mine", cwd=folder, trains=True)
    assert code == 0, said
    (run_dir,) = (folder / "runs" / "mine").iterdir()
    return folder, run_dir, said


def test_everything_of_ones_own_takes_part(ran):
    _, run_dir, said = ran
    assert read_json(run_dir / "outcome.json")["status"] == "finished"
    assert steps(run_dir) == [4, 8]
    assert "evaluations 1" in said and "evaluations 2" in said  # the callback
    trained = [r["values"] for r in records(run_dir) if r["split"] == "train"]
    assert [values["epoch_temperature"] for values in trained if "epoch_loss" in values] == [2.0, 2.0]
    assert [values["learning_rate"] for values in trained if "epoch_loss" in values] == pytest.approx(
        [0.1, 0.1]
    )
    assert (4, 8) in shapes(run_dir)


def test_its_state_is_in_the_checkpoint(ran):
    _, run_dir, _ = ran
    assert '"seen":2' in (run_dir / "checkpoints/step-00000008/manifest.json").read_text().replace(" ", "")


@pytest.mark.slow
def test_the_same_command_again_has_nothing_to_do_and_more_epochs_go_on(ran, installed):
    folder, run_dir, _ = ran
    copy = folder / "copy"
    shutil.copytree(run_dir, copy)
    before = snapshot(copy)
    code, said, _ = installed("experiment=mine", "run_dir=copy", cwd=folder)
    assert code == 0
    assert said.startswith("nothing is left to do: the run has 8 of 8 steps")
    assert snapshot(copy) == before
    code, said, _ = installed("experiment=mine", "run_dir=copy", "epochs=3", cwd=folder, trains=True)
    assert (code, "continues after step 8" in said) == (0, True), said
    assert "evaluations 3" in said  # the callback's state came back


@pytest.mark.slow
def test_a_new_run_starts_from_another_ones_configuration_and_other_words(ran, installed):
    folder, run_dir, _ = ran
    words = ["trainer.temperature=5", "model.width=3", "data.source.rows=20", "+model.activation=tanh"]
    source = f"from_run={run_dir.relative_to(folder)}"
    code, said, _ = installed(source, "run_dir=anew", "epochs=1", *words, cwd=folder, trains=True)
    assert code == 0, said
    assert records(folder / "anew")[-1]["values"]["epoch_temperature"] == 5.0
    assert (4, 3) in shapes(folder / "anew")
    config = yaml.safe_load((folder / "anew" / "config.yaml").read_text())
    before = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"] == {"_target_": "mine.Tower", "width": 3, "activation": "tanh"}
    changed = {key for key in {*config, *before} if config.get(key) != before.get(key)}
    assert changed == {"from_run", "run_dir", "epochs", "trainer", "model", "data"}


MISTAKES = [
    ("experiment/mine.yaml", "  temperature: 2.0", "  temperatur: 2.0", "trainer.temperatur", "temperature"),
    ("experiment/mine.yaml", "mine.Margin, width", "mine.Margin, widht", "loss.widht", "width"),
    ("experiment/mine.yaml", "mine.Softened", "mine.Softend", "trainer._target_", "Softened"),
    ("experiment/mine.yaml", "rows: 40", "row: 40", "data.source.row", "rows"),
    ("experiment/mine.yaml", "after_steps: 2ep", "after_step: 2ep", "schedule.after_step", "after_steps"),
    ("experiment/mine.yaml", "say: evaluations", "sya: x", "callbacks.counting.sya", "say"),
    ("experiment/mine.yaml", "/model: own", "/model: owm", "model", "own"),
    ("model/own.yaml", "width: 8", "widt: 8", "model.widt", "width"),
]


@pytest.mark.share(3)
@pytest.mark.promise(40)
@pytest.mark.parametrize(("file", "right", "wrong", "key", "meant"), MISTAKES, ids=lambda word: word.strip())
def test_a_mistake_is_found_without_tensorflow_where_it_was_made(
    installed, tmp_path, file, right, wrong, key, meant
):
    path = project(tmp_path) / "conf" / file
    lines = path.read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if right in text]
    path.write_text("\n".join(lines).replace(right, wrong))
    code, said, heavy = installed("experiment=mine", cwd=tmp_path)
    assert (code, heavy) == (2, ""), said
    assert said.startswith(f"looplab: {key}: "), said
    assert f"Did you mean {meant!r}?" in said
    assert f"    conf/{file}:{line}\n" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_help_names_the_projects_options(ran, installed):
    folder, _, _ = ran
    code, said, heavy = installed("--help", cwd=folder)
    assert (code, heavy) == (0, "")
    assert "model: convnet, none, own\n" in said
    assert "  three classes of points, a margin, and a rate that falls\n" in said


@pytest.mark.slow
def test_a_src_layout_runs_with_pythonpath(installed, tmp_path):
    folder = project(tmp_path, "src/research/nets.py", "research.nets")
    (folder / "src/research/__init__.py").write_text("")
    code, said, heavy = installed("experiment=mine", "trainer.reprot=false", cwd=folder, path=["src"])
    assert (code, heavy) == (2, "")
    code, said, heavy = installed("experiment=mine", "+trainer.reprot=false", cwd=folder, path=["src"])
    assert (code, heavy) == (2, ""), said
    assert "trainer.reprot: research.nets.Softened takes no argument 'reprot'" in said
    words = ["experiment=mine", "epochs=1", "run_dir=run"]
    code, said, _ = installed(*words, cwd=folder, path=["src"], trains=True)
    assert code == 0, said
    assert read_json(folder / "run" / "outcome.json")["status"] == "finished"


def test_the_working_directory_is_the_project_and_a_folder_of_it_is_not(ran, installed):
    folder, _, _ = ran
    (folder / "notebooks").mkdir()
    code, said, heavy = installed("experiment=mine", cwd=folder / "notebooks")
    assert (code, heavy) == (2, "")
    assert "there is no option 'mine'; there are autoencoder, contrastive, digits" in said
    assert "looked in" in said
