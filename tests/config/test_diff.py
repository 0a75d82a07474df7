"""A run that goes on with another configuration, and a new run from the configuration of another."""

import shutil

import pytest
import yaml
from omegaconf import OmegaConf

from looplab.config import diff
from looplab.config.schema import FREE, SAID
from looplab.errors import DamagedFile, Refused
from looplab.runs.sealed import commented
from tests.process import PROJECT, arrays, differing, records, train, trained, write


@pytest.mark.parametrize(
    ("key", "mark"),
    [
        ("epochs", FREE),
        ("loggers.verbose", FREE),
        ("execution.steps_per_execution", FREE),
        ("checkpoint.every", SAID),
        ("strategy.replicas", SAID),
        ("callbacks.mine.patience", SAID),
        ("metrics", SAID),
        ("seed", None),
        ("optimizer.learning_rate", None),
        ("data.batch_size", None),
        ("model.units", None),
        ("precision.policy", None),
        ("execution.mode", None),
        ("a.key.of.an.older.version", None),
    ],
)
def test_every_key_has_its_class(key, mark):
    assert diff.Change(key, 1, 2).mark == mark


def written(**sections):
    return diff.written(OmegaConf.create({"epochs": 1, **sections}), "mine")


@pytest.fixture
def run(tmp_path):
    """The directory of a run that was started with seed 0 and a learning rate."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written(optimizer={"learning_rate": 0.1})))
    return tmp_path


def refused(run, allowed=(), **sections):
    with pytest.raises(Refused) as caught:
        diff.refuse(run, written(**sections), allowed)
    return [problem.key for problem in caught.value.problems], str(caught.value)


@pytest.mark.fault(63)
def test_what_changes_the_mathematics_is_refused_all_at_once(run):
    keys, message = refused(run, seed=1, optimizer={"learning_rate": 0.2}, epochs=9)
    assert keys == ["optimizer.learning_rate", "seed"]
    assert "started with 0.1; 0.2 would change its results" in message
    assert "allow_change=[optimizer.learning_rate]" in message


@pytest.mark.parametrize(
    "allowed", [["optimizer.learning_rate"], ["optimizer"], ["config"], ["seed", "optimizer"]]
)
def test_it_may_change_by_name(run, allowed):
    diff.refuse(run, written(optimizer={"learning_rate": 0.2}), allowed)


def test_another_name_does_not_allow_it(run):
    assert refused(run, ["optimizer.learning"], optimizer={"learning_rate": 0.2})[0] == [
        "optimizer.learning_rate"
    ]


def test_where_there_is_no_run_yet_everything_may_change(run):
    (run / "checkpoints").rmdir()
    diff.refuse(run, written(seed=5), [])


@pytest.mark.parametrize("content", ["{", "", "[]", "\0", "a: &a [*a]\n"])
def test_a_configuration_that_is_damaged_is_said_with_the_remedy(content, run):
    (run / "config.yaml").write_text(content)
    with pytest.raises(DamagedFile, match=r"config\.yaml is damaged: .*allow_change=\[config\]") as refused:
        diff.refuse(run, written(), [])
    assert refused.value.exit_code == 3 and not diff.is_same(run, written())
    diff.refuse(run, written(seed=5), ["config"])


def test_a_configuration_that_a_person_has_changed_is_read_without_its_digest(run):
    path = run / "config.yaml"
    path.write_text(commented(path.read_text()).replace("seed: 0", "seed: 7"))
    with pytest.raises(DamagedFile, match="If you changed it yourself, remove its first line"):
        diff.since(run, written())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert "seed (7 -> 0)" in map(str, diff.since(run, written()))


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    write(folder, PROJECT)
    trained("experiment=mine", "run_dir=first", "model.units=3", cwd=folder)
    return folder


def test_a_change_is_refused_before_tensorflow_and_made_when_it_is_named(project):
    shutil.copytree(project / "first", project / "changed")
    words = ["experiment=mine", "run_dir=changed", "model.units=3", "epochs=3", "optimizer.learning_rate=0.5"]
    code, said = train(*words, cwd=project)
    assert code == 3
    assert said.startswith(
        "looplab: optimizer.learning_rate: the run in changed was started with 0.01; 0.5 would"
    )
    assert "on the command line: optimizer.learning_rate=0.5" in said
    said = trained(*words, "allow_change=[optimizer.learning_rate]", cwd=project)
    assert "optimizer.learning_rate (0.01 -> 0.5)" in said
    assert records(project / "changed")[-1]["values"]["learning_rate"] == 0.5


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("name", "words"),
    [("a", ["from_run=first"]), ("b", ["--config-dir", "first", "--config-name", "config"])],
)
def test_the_configuration_of_a_run_starts_the_same_run_again(project, name, words):
    trained(*words, f"run_dir={name}", cwd=project)
    first, again = (yaml.safe_load((project / run / "config.yaml").read_text()) for run in ("first", name))
    assert diff.differences(first, again) == []
    assert differing(arrays(project / "first"), arrays(project / name)) == []
    assert not (project / "outputs").exists()


@pytest.mark.slow
def test_a_run_from_another_goes_where_runs_of_its_experiment_go(project):
    trained("from_run=first", "seed=3", "loggers.verbose=0", cwd=project)
    (run,) = (project / "runs" / "mine").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["experiment"], config["seed"], config["from_run"]) == ("mine", 3, "first")
    assert config["model"]["units"] == 3


@pytest.mark.slow
def test_an_unfinished_run_of_the_same_configuration_is_named(project):
    runs = project / "runs" / "mine"
    earlier = runs / "2026-01-02_03-04-05"
    words = ["experiment=mine", "seed=9", "epochs=1"]
    trained(*words, f"run_dir={earlier.relative_to(project)}", cwd=project)
    (earlier / "outcome.json").unlink()  # as after kill -9
    said = trained(*words, cwd=project)
    assert said.startswith("an unfinished run has the same configuration: runs/mine/2026-01-02_03-04-05;")
    assert "unfinished" not in trained("experiment=mine", "seed=8", "epochs=1", cwd=project)
