"""`python -m looplab.evaluate`: the values of a checkpoint, on the run's data or on other."""

import re
import shutil

import pytest

import looplab
from looplab import evaluate, train
from looplab.checkpoint import Store, bundle
from looplab.experiment import load
from tests.checkpoint.zoo.catalogue import rewrite
from tests.process import ended, read_json, records, snapshot, start, steps, write
from tests.recorded import act, at_home, make_run


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("project"))


@pytest.fixture
def copy(project, tmp_path):
    """The project, to break."""
    return shutil.copytree(project, tmp_path / "project")


def values(project, *words):
    """What the command writes: ({split: values}, step)."""
    words = ["run_dir=runs/mine", "output=../values.json", "overwrite=true", *words]
    code, said = act(evaluate.main, *words, cwd=project)
    assert code == 0, said
    written = read_json(project.parent / "values.json")
    return written["values"], written["step"]


def logged(project, step):
    """What the run itself found at a step."""
    (found,) = [
        r["values"] for r in records(project / "runs/mine") if (r["split"], r["step"]) == ("validation", step)
    ]
    return {name.removeprefix("epoch_"): value for name, value in found.items()}


@pytest.mark.slow
def test_the_best_checkpoint_gives_what_the_run_found_and_the_run_stays_as_it_is(project):
    run = project / "runs/mine"
    best, before = read_json(run / "outcome.json")["best"]["step"], snapshot(run)
    found, step = values(project)
    assert step == best
    assert found == {"validation": pytest.approx(logged(project, best), rel=1e-6)}
    code, said = act(evaluate.main, "run_dir=runs/mine", f"checkpoint={best}", cwd=project)
    assert (code, len(said.splitlines())) == (0, 2)
    assert said.splitlines()[0].split() == ["checkpoint", f"runs/mine/checkpoints/step-{best:08d}"]
    assert re.fullmatch(r"validation  loss \S+  accuracy \S+", said.splitlines()[1])
    assert snapshot(run) == before


def test_any_checkpoint_other_data_other_metrics_other_replicas(project):
    earlier = steps(project / "runs/mine")[0]
    last, _ = values(project, "checkpoint=last")
    assert last["validation"] == pytest.approx(logged(project, 15), rel=1e-6)
    found, step = values(project, f"checkpoint={earlier}", "strategy=simulated", "strategy.replicas=3")
    assert (step, found["validation"]) == (earlier, pytest.approx(logged(project, earlier), rel=1e-5))
    found, _ = values(
        project, "split=train", "data.batch_size=7", "metrics=[sparse_top_k_categorical_accuracy]"
    )
    assert set(found) == {"train"} and set(found["train"]) == {"loss", "sparse_top_k_categorical_accuracy"}
    found, _ = values(project, "data=other")  # replaces the whole section: its function takes no rows
    with at_home(project):
        import other

        x, y = other.points()["validation"]
        trainer = looplab.load("runs/mine")
    assert found["validation"] == pytest.approx(trainer.evaluate(x, y), rel=1e-6)


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--help", 0, r"^python -m looplab.evaluate run_dir=... \[checkpoint=...\]"),
        ("run_dir=", 2, r"looplab: run_dir: name the run: python -m looplab.evaluate run_dir=DIR"),
        ("run_dir=nowhere", 2, r"looplab: run_dir: nowhere has no config.yaml"),
        ("checkpoint=bset", 2, r"neither best, last nor a step; .* 15\. Did you mean 'best'"),
        ("checkpoint=7", 2, r"checkpoint: of step 7 is not there; .* of the steps .*10, 15"),
        ("split=test", 2, r"split: the data of the run has no set 'test'; there are train, validation"),
        ("output=mine.py", 2, r"output: 'mine.py' must end in .json"),
        ("overwrite=yes output=a.json", 2, r"overwrite: expected true or false, got 'yes'"),
        ("data.batch_sise=3", 2, r"data.batch_sise: .*Did you mean 'batch_size'\?"),
        ("data=othr", 2, r"data: there is no option 'othr'; .*Did you mean 'other'\?"),
        ("--multirun seed=0,1", 2, r"evaluate works on one run"),
        ("model.units=17", 3, r"does not fit this trainer"),
    ],
)
def test_what_cannot_be_is_refused(project, words, code, says):
    before = snapshot(project / "runs")
    found, said = act(evaluate.main, "run_dir=runs/mine", *words.split(), cwd=project)
    assert (found, bool(re.search(says, said))) == (code, True), said
    assert snapshot(project / "runs") == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_or_passed_over_with_a_warning(copy):
    path = copy / "runs/mine/checkpoints/step-00000015/arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, said = act(evaluate.main, "run_dir=runs/mine", "checkpoint=15", cwd=copy)
    assert code == 3 and "step-00000015" in said and "damaged" in said
    code, said = act(evaluate.main, "run_dir=runs/mine", "checkpoint=last", cwd=copy)
    assert code == 0 and "Taking step-00000010 instead" in said


def test_a_run_of_python_has_no_configuration(project, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    code, said = act(evaluate.main, f"run_dir={tmp_path}/run", cwd=project)
    assert code == 2 and "Python started this run" in said and "trainer.restore('best')" in said
    (tmp_path / "run/config.yaml").write_text((project / "runs/mine/config.yaml").read_text())
    code, said = act(evaluate.main, f"run_dir={tmp_path}/run", cwd=project)
    assert code == 2 and "has no checkpoint" in said


@pytest.mark.fault(31)
def test_a_checkpoint_that_the_run_drops_while_it_is_read_is_no_error(copy, monkeypatch):
    store, read = Store(copy / "runs/mine/checkpoints"), bundle.read
    dropped = []

    def name_best(step):
        (best,) = bundle.read_manifest(store.path(15))["values"]["progress"]["top"]
        rewrite(store.path(15), values={"progress": {"top": [best | {"step": step}]}})

    def dropping(path):  # as if the run had pruned it, and named another the best
        if not dropped:
            dropped.append(path)
            shutil.rmtree(path)
            name_best(15)
        return read(path)

    name_best(10)
    monkeypatch.setattr(bundle, "read", dropping)
    assert store.find("best")[0].name == "step-00000015" and dropped[0].name == "step-00000010"
    monkeypatch.setattr(bundle, "read", read)
    store.save(20, read(store.path(15)), {})
    monkeypatch.setattr(bundle, "read", dropping)
    dropped.clear()
    assert store.newest()[0].name == "step-00000015" and dropped[0].name == "step-00000020"


def test_several_sets_are_all_evaluated_each_with_its_own_size():
    data = {"a": looplab.Validation([1], steps=2, batch_size=5), "b": looplab.Validation([2])}

    class Trainer:
        def evaluate(self, data, batch_size, steps):
            return {"data": data[0], "batch_size": batch_size, "steps": steps}

    restored = load.Restored(Trainer(), None, {"train": looplab.Validation([0]), **data})
    assert restored.evaluate(None) == {
        "a": {"data": 1, "batch_size": 5, "steps": 2},
        "b": {"data": 2, "batch_size": None, "steps": None},
    }
    assert list(restored.evaluate("train")) == ["train"]


@pytest.mark.slow
def test_another_table_has_the_classes_of_the_table_that_the_run_was_trained_on(tmp_path):
    def csv(*kinds):
        known = {"ape": "1,0,0", "cat": "0,1,0", "dog": "0,0,1"}
        return "a,b,c,kind\n" + "".join(f"{known[kind]},{kind}\n" for kind in kinds)

    experiment = """
# @package _global_
defaults: [override /data: table, override /optimizer: sgd]
epochs: 9
model: {_target_: small.net}
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
metrics: [accuracy]
data: {batch_size: 3, source: {path: train.csv, target: kind, validation: some.csv}}
optimizer: {learning_rate: 1.0}
loggers: {verbose: 2}
"""
    net = "import keras, looplab\n\n@looplab.configurable\n"
    net += "def net():\n    return keras.Sequential([keras.layers.Dense(3)])\n"
    kinds = ["ape", "cat", "dog"] * 5
    files = {"train.csv": csv(*kinds), "some.csv": csv("dog", "cat"), "other.csv": csv("dog", "cat", "dog")}
    write(tmp_path, {**files, "strange.csv": csv("dog").replace("dog", "emu"), "small.py": net})
    write(tmp_path, {"conf/experiment/kinds.yaml": experiment})
    code, said = act(train.main, "+experiment=kinds", "run_dir=run", cwd=tmp_path)
    assert code == 0, said
    assert said.count("classes of kind: 0 ape, 1 cat, 2 dog") == 1
    assert "classes of kind: 0 ape, 1 cat, 2 dog" in (tmp_path / "run/log.txt").read_text()

    def evaluated(*words):
        return act(evaluate.main, "run_dir=run", "checkpoint=last", "split=train", *words, cwd=tmp_path)

    other = ["data.source.path=other.csv", "data.source.validation=null"]
    code, said = evaluated(*other)
    assert code == 0 and "accuracy 1.0000" in said, said  # numbered by itself, cat would be 0 and dog 1
    code, said = evaluated("data.source.path=strange.csv", "data.source.validation=null")
    assert code == 5 and "strange.csv: the column 'kind' has the value 'emu' in row 0" in said, said
    _, _, written = (tmp_path / "run/config.yaml").read_text().partition("\n")  # without its digest
    changed = written.replace("path: train.csv", "path: ${oc.env:NOT_SET}.csv")
    (tmp_path / "run/config.yaml").write_text(changed)
    code, said = evaluated(*other)  # nobody knows where the table is now
    assert (
        code == 2 and "there is no file ${oc.env:NOT_SET}.csv" in said and "data.source.classes=[...]" in said
    ), said
    code, said = evaluated(*other, "data.source.classes=[ape,cat,dog]")
    assert code == 0 and "accuracy 1.0000" in said, said


def test_as_a_real_process(project):
    code, said = ended(start("run_dir=runs/mine", "metrics=[]", cwd=project, module="looplab.evaluate"))
    assert code == 0 and re.search(r"(?m)^validation  loss \d", said), said
