"""`initialize_from` as a key of a configuration: a run from another one, by the command."""

import shutil

import numpy as np
import pytest
import yaml

from looplab import check, evaluate, train
from tests.process import ROOT, arrays, differing, read_json, snapshot, write
from tests.process import train as train_elsewhere
from tests.recorded import act, make_run
from tests.test_train import WITNESS

WORDS = ["+experiment=mine", "loggers.verbose=0", "epochs=1"]
SOURCE = "initialize_from=runs/mine"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("project"))


def did(main, *words, cwd, code=0):
    ended, said = act(main, *words, cwd=cwd)
    assert ended == code, said
    return said


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another_and_goes_on_without_it(project, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(project, folder)
    said = did(train.main, *WORDS, "loggers.verbose=2", SOURCE, "run_dir=runs/new", cwd=folder)
    best = read_json(folder / "runs/mine/outcome.json")["best"]["step"]
    assert f"first weights  4 of 4 variables are those of runs/mine/checkpoints/step-{best:08d};" in said
    assert yaml.safe_load((folder / "runs/new/config.yaml").read_text())["initialize_from"] == "runs/mine"
    did(train.main, *WORDS, SOURCE, "epochs=2", "run_dir=runs/whole", cwd=folder)
    did(train.main, "from_run=runs/new", "run_dir=runs/again", cwd=folder)
    assert differing(arrays(folder / "runs/new"), arrays(folder / "runs/again")) == []
    shutil.rmtree(folder / "runs/mine")
    said = did(train.main, *WORDS, "loggers.verbose=2", SOURCE, "epochs=2", "run_dir=runs/new", cwd=folder)
    assert "the run continues; initialize_from was used at its start (runs/mine/checkpoints/" in said
    assert differing(arrays(folder / "runs/whole"), arrays(folder / "runs/new")) == []
    assert "accuracy" in did(evaluate.main, "run_dir=runs/new", cwd=folder)
    assert "runs/mine does not exist" in did(train.main, *WORDS, SOURCE, cwd=folder, code=2)


@pytest.mark.slow
def test_a_model_of_another_shape_is_refused_with_3_also_by_check(project):
    words = [*WORDS, "model.units=3"]
    before = snapshot(project / "runs")
    said = did(check.main, *words, SOURCE, cwd=project, code=3)
    assert "gives 1 of 4 variables a value" in said
    assert "initialize_from.skip=[dense, dense_1/kernel]" in said  # words that can be given
    given = "initialize_from={path: runs/mine, skip: [dense, dense_1/kernel]}"
    said = did(check.main, *words, given, cwd=project)
    assert "mismatched" in said and "(4, 16) there, (4, 3) here" in said
    assert snapshot(project / "runs") == before
    said = did(train.main, *words, SOURCE, "run_dir=runs/refused", cwd=project, code=3)
    assert read_json(project / "runs/refused/outcome.json")["exit_code"] == 3
    did(train.main, *words, given, "run_dir=runs/refused", cwd=project)
    bias = arrays(project / "runs/refused")["models/model/dense/bias"]
    assert np.shape(bias) == (3,)


def test_what_is_wrong_with_it_is_said_before_tensorflow_is_imported(project, tmp_path):
    write(tmp_path, WITNESS)
    told = tmp_path / "told"
    words = [*WORDS, "initialize_from={path: runs/min, skp: [head]}"]
    options = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "WITNESS": str(told)}
    code, said = train_elsewhere(*words, cwd=project, **options)
    assert (code, told.read_text().splitlines()[0]) == (2, "")
    assert "Did you mean 'mine'?" in said and "Did you mean 'skip'?" in said
