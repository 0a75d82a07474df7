"""Sweeps as people meet them: real processes, killed and started again.

Jobs are forked from a process that has done the imports; the launcher of several at once is not.
"""

import csv
import os
import re
import shutil
import signal
import time

import optuna
import pytest
import yaml

from looplab.cli.sweep import results
from tests.process import (
    HANGS,
    PROJECT,
    arrays,
    differing,
    ended,
    forking_python,
    read_json,
    snapshot,
    start,
    train,
    trained,
    wait_for,
    write,
)

CALLBACKS = {
    "told.py": '''
import time
from pathlib import Path
import looplab


class Note(looplab.Callback):
    """Takes anything, and fails where it is told so."""

    def __init__(self, swept, **values):
        self.every, self.swept = 1, swept

    def on_step(self, event, controls):
        if self.swept.startswith("bad"):
            raise RuntimeError("a mistake in on_step")


class Pause(looplab.Callback):
    """Makes steps from this one on slow, until there is a file called `go`."""

    def __init__(self, step):
        self.every, self.step = 1, step

    def on_step(self, event, controls):
        if event.step >= self.step and not Path("go").exists():
            time.sleep(0.5)
'''
}
NOTE = {"text": "a b [c] (d)  ü, 'e' \"f\"", "path": "C:\\x y", "list": [1, "x, y", None], "dict": {"k": "ä"}}
RATES = "optimizer.learning_rate"


@pytest.fixture
def project(tmp_path):
    write(tmp_path, PROJECT | CALLBACKS)
    return tmp_path


def table(sweep_dir):
    with (sweep_dir / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sweeps(project):
    return list(project.glob("runs/mine/sweep_*"))


def wait_until_gone(pid):
    limit = time.monotonic() + HANGS
    while time.monotonic() < limit:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} lives on")


def aside(project):
    """Options of `start` for a sweep that starts its jobs in processes of a launcher: the jobs are forked."""
    write(project, {"aside/sitecustomize.py": "import os, sys\nsys.executable = os.environ['FORKS']\n"})
    return {"cwd": project, "PYTHONPATH": str(project / "aside"), "FORKS": forking_python()}


@pytest.fixture
def begin():
    """Starts sweeps as `start` does; whatever becomes of the test, none outlives it."""
    started = []

    def begin(*words, **options):
        started.append(start(*words, **options))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


# --- a grid ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A job that finishes and one that fails, with values that a shell and Hydra both make much of."""
    project = tmp_path_factory.mktemp("sweeps") / "mein Prüfstand (1)"
    write(project, PROJECT | CALLBACKS)
    note = "+callbacks.note={_target_: told.Note, text: 'a b [c] (d)  ü, \\'e\\' \"f\"', path: 'C:\\x y', "
    note += "list: [1, 'x, y', null], dict: {k: 'ä'}}"
    words = [
        "--multirun",
        "experiment=mine",
        "epochs=1",
        note,
        "+callbacks.note.swept='ü [1], {2}','bad, (b)'",
    ]
    code, said = train(*words, cwd=project, forks=True)
    (sweep_dir,) = sweeps(project)
    return sweep_dir, words, code, said


@pytest.mark.slow
def test_a_failed_job_does_not_lose_the_others(grid):
    sweep_dir, _, code, said = grid
    assert code == 1
    assert read_json(sweep_dir / "0" / "outcome.json")["status"] == "finished"
    assert read_json(sweep_dir / "1" / "outcome.json")["status"] == "failed"
    assert "job 1: exit code 1: RuntimeError: a mistake in on_step" in said
    assert 'raise RuntimeError("a mistake in on_step")' in said  # the job's own output
    assert re.search(r"^job 1 \(2 of 2\)  \+callbacks.note.swept='bad, \(b\)'  -> .*/1$", said, re.MULTILINE)
    assert re.search(r"^job 1 .*\n(.*\n)*.*tensorboard --logdir '?runs/mine/sweep_", said, re.MULTILINE)
    assert "Error executing job" not in said
    assert {p.name for p in sweep_dir.iterdir()} == {"0", "1", "multirun.yaml", "results.csv", "sweep.json"}


def test_the_table_shows_every_job(grid):
    sweep_dir, _, _, said = grid
    good, bad = table(sweep_dir)
    outcome = read_json(sweep_dir / "0" / "outcome.json")
    assert (good["job"], good["status"], good["exit_code"]) == ("0", "finished", "0")
    assert good["callbacks.note.swept"] == "'ü [1], {2}'"
    assert float(good["val_loss"]) == outcome["best"]["value"]
    assert (int(good["step"]), float(good["seconds"])) == (5, outcome["seconds"])
    assert (bad["job"], bad["status"], bad["val_loss"], bad["exit_code"]) == ("1", "failed", "", "1")
    place = r"/.*\.py, line \d+, in on_step; in the callback Note\.on_step at step 1"
    assert re.fullmatch(rf"RuntimeError: a mistake in on_step \({place}\)", bad["reason"])
    shown = re.sub(r" +", " ", said)
    assert "job callbacks.note.swept status val_loss step seconds" in shown
    assert f"finished {outcome['best']['value']:.6g} 5" in shown


def test_a_job_has_the_values_that_the_words_mean(grid):
    sweep_dir, *_ = grid
    config = yaml.safe_load((sweep_dir / "0" / "config.yaml").read_text("utf-8"))
    assert config["callbacks"]["note"] == {"_target_": "told.Note", **NOTE, "swept": "ü [1], {2}"}
    assert config["run_dir"] == str(sweep_dir.relative_to(sweep_dir.parents[2]) / "0")


@pytest.mark.slow
def test_the_same_command_tries_again_only_what_failed(grid):
    sweep_dir, words, _, _ = grid
    before = snapshot(sweep_dir / "0")
    code, said = train(*words, cwd=sweep_dir.parents[2], forks=True)
    assert code == 1
    assert re.search(r"^job 0 \(1 of 2\) .* is already done$", said, re.MULTILINE)
    assert re.search(r"^job 1 \(2 of 2\) .* -> ", said, re.MULTILINE)
    assert snapshot(sweep_dir / "0") == before
    assert [row["status"] for row in table(sweep_dir)] == ["finished", "failed"]


@pytest.mark.slow  # a whole sweep; the other tests read what is damaged in one process
def test_a_job_whose_note_is_damaged_compares_its_configuration_and_is_done(grid, tmp_path):
    project = shutil.copytree(grid[0].parents[2], tmp_path / "project")
    sweep_dir = project / grid[0].relative_to(grid[0].parents[2])
    note = sweep_dir / "0" / "job.json"
    note.write_text(note.read_text().replace("epochs=1", "epochs=3"))
    code, said = train(*grid[1], cwd=project, forks=True)
    assert (
        code == 1 and f"{note.relative_to(project)} is damaged" in said and "looplab writes it again" in said
    )
    assert "nothing is left to do" in said
    assert [row["status"] for row in table(sweep_dir)] == ["finished", "failed"]


@pytest.mark.fault(17)
def test_a_job_whose_note_is_damaged_has_a_row_that_says_so(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").write_text('{"words": "epochs=3"}')
    (row,) = results._rows(tmp_path)
    assert (row.status, row.exit_code) == ("failed", 3) and "job.json is damaged: words is" in row.reason


def test_a_folder_that_holds_another_job_is_refused(grid):
    sweep_dir, *_ = grid
    run = sweep_dir / "0"
    before = {k: v for k, v in snapshot(run).items() if k != "job.json"}
    words, where = ["-m", "experiment=mine", "epochs=3", f"run_dir={sweep_dir}"], sweep_dir.parents[2]
    code, said = train(*words, cwd=where, forks=True)
    assert code == 2
    assert f"{run} holds another job: +experiment=mine epochs=1" in said
    assert {k: v for k, v in snapshot(run).items() if k != "job.json"} == before
    assert [row["status"] for row in table(sweep_dir)] == ["refused", "failed"]


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=0,1", "run_dir={job}"], ["run_dir", "holds a single run"]),
        (["seed=0,1", "hydra.sweep.dir=runs/x"], ["hydra.sweep.dir", "run_dir="]),
        (["run_dir=a,b"], ["run_dir", "one directory"]),
        (
            ["sweep=optuna", "seed=range(3)", "checkpoint.monitor=val_accuracy"],
            ["hydra.sweeper.direction: minimize", "a higher", "direction=maximize"],
        ),
        (["seed=0,1", "epohcs=3"], ["epohcs", "Did you mean 'epochs'?"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_cannot_be_a_sweep_is_refused_before_any_job(grid, words, expected):
    project = grid[0].parents[2]
    before = snapshot(project)
    words = [word.replace("{job}", str(grid[0] / "0")) for word in words]
    code, said = train("-m", "experiment=mine", *words, cwd=project, forks=True)
    assert code == 2
    assert said.startswith("looplab: ")
    assert "Traceback" not in said
    assert [word for word in expected if word not in said] == []
    assert snapshot(project) == before


# --- where ------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Words of a sweep whose jobs are refused without TensorFlow."""
    write(tmp_path, PROJECT)
    return tmp_path, ["-m", "experiment=mine", "epochs=1", "steps=9"]


@pytest.mark.slow
def test_the_directory_follows_from_what_is_computed(small):
    folder, words = small
    assert train(*words, cwd=folder, forks=True)[0] == 2
    (first,) = sweeps(folder)
    assert train(*words[:2], *reversed(words[2:]), "hydra.launcher={}", cwd=folder, forks=True)[0] == 2
    assert sweeps(folder) == [first]
    with (folder / "conf/experiment/mine.yaml").open("a") as file:
        file.write("seed: 7\n")
    assert train(*words, cwd=folder, forks=True)[0] == 2
    assert len(sweeps(folder)) == 2


@pytest.mark.slow
def test_run_dir_is_the_directory_if_given(small):
    folder, words = small
    code, said = train(*words, "seed=0,1", "run_dir=läufe/a b", cwd=folder, forks=True)
    assert code == 2
    assert {"0", "1"} < {path.name for path in (folder / "läufe" / "a b").iterdir()}
    assert not (folder / "runs").exists()
    assert said.count("looplab: steps: epochs=1 and steps=9") == 2


@pytest.mark.slow
def test_each_job_knows_its_number_and_words_that_all_share_are_no_columns(project):
    words = ["seed=${hydra:job.num}", "vars.width=${hydra:job.num}", "+data.source.rows=50,40", "epochs=1"]
    words += ["callbacks=[{_target_: told.Note, swept: '${hydra:runtime.output_dir}'}]"]
    code, said = train("--multirun", "experiment=mine", "run_dir=sweep", *words, cwd=project, forks=True)
    assert code == 0, said
    jobs = [project / "sweep" / str(number) for number in (0, 1)]
    assert [read_json(job / "environment.json")["seed"] for job in jobs] == [0, 1]
    assert all("seed: ${hydra:job.num}" in (job / "config.yaml").read_text() for job in jobs)
    columns = list(table(project / "sweep")[0])
    assert "data.source.rows" in columns
    assert not [name for name in columns if name.startswith(("callbacks", "vars", "seed"))]
    words[2:4] = ["+data.source.rows=40", "epochs=2"]
    code, said = train("experiment=mine", "run_dir=sweep/1", *words, cwd=project)  # by itself
    assert code == 0, said  # with another number its seed would be another


def test_the_learning_rate_option_is_a_grid(small, begin):
    folder, words = small
    until_cut = "import os\nif 'LOOPLAB_JOB' in os.environ:\n    os.read(0, 1)\n"
    write(folder, {"sitecustomize.py": until_cut})  # the first job waits for the end of the sweep
    process = begin("sweep=learning_rate", *words[1:], cwd=folder, PYTHONPATH=str(folder))
    assert process.stdout.readline().startswith(f"job 0 (1 of 6)  {RATES}=0.0001  -> runs/mine/sweep_")
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 143
    assert "job 1" not in said
    assert said.endswith("looplab: the sweep is not finished; the same command continues it\n")


@pytest.mark.share(1)
@pytest.mark.parametrize("words", [["sweep=parallel"], ["sweep=optuna"], ["hydra/launcher=joblib"]], ids=str)
def test_what_the_extra_brings_is_said(small, words):
    folder, given = small
    write(folder, {"sitecustomize.py": "import sys\nsys.modules['hydra_plugins'] = None\n"})
    code, said = train(*given, *words, cwd=folder, PYTHONPATH=str(folder))
    assert code == 2
    assert said.startswith("looplab: hydra/")
    assert "the extra 'sweep': pip install 'looplab[sweep]'" in said
    assert said.splitlines()[1:] == [
        f"    on the command line: {'+' if 'sweep' in words[0] else ''}{words[0]}"
    ]


# --- several at once --------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_jobs_at_once_and_then_none(project):
    words = ["experiment=mine", "epochs=1", f"{RATES}=0.0001,0.1"]
    said = trained(*words, "sweep=parallel", **aside(project))
    (sweep_dir,) = sweeps(project)
    assert sorted(re.findall(r"^job . \(. of 2\)  optimizer.learning_rate=\S+  done$", said, re.M)) == [
        f"job 0 (1 of 2)  {RATES}=0.0001  done",
        f"job 1 (2 of 2)  {RATES}=0.1  done",
    ]
    assert "epoch 1/1" not in said
    assert "epoch 1/1" in (sweep_dir / "0" / "log.txt").read_text()
    assert [row["job"] for row in table(sweep_dir)] == ["1", "0"]  # best first
    began = [read_json(sweep_dir / job / "environment.json")["host"]["pid"] for job in "01"]
    assert began[0] != began[1]

    kept = snapshot(sweep_dir)
    said = trained("--multirun", *words, cwd=project, forks=True)  # one at a time: the same sweep
    assert said.count("is already done") == 2
    assert {k: v for k, v in snapshot(sweep_dir).items() if k != "multirun.yaml"} == {
        k: v for k, v in kept.items() if k != "multirun.yaml"
    }


@pytest.mark.slow
@pytest.mark.fault(38)
def test_ctrl_c_saves_all_jobs_of_a_parallel_sweep(project, begin):
    words = [
        "experiment=mine",
        "epochs=50",
        "sweep=parallel",
        "seed=1,2,3",
        "+callbacks.pause={_target_: told.Pause, step: 8}",
    ]
    process = begin(*words, **aside(project))
    saved = "runs/mine/sweep_*/[01]/checkpoints/step-*"
    wait_for(process, lambda: len({path.parents[1] for path in project.glob(saved)}) == 2)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    (sweep_dir,) = sweeps(project)
    assert code == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "looplab: the sweep is not finished; the same command continues it"
    assert [row["status"] for row in table(sweep_dir)] == ["interrupted", "interrupted"]
    assert not (sweep_dir / "2" / "outcome.json").exists()


@pytest.mark.slow
def test_a_job_that_is_asked_to_end_ends_its_sweep(project, begin):
    pause = "+callbacks.pause={_target_: told.Pause, step: 2}"
    words = ["experiment=mine", "epochs=50", pause, "seed=1,2", "sweep=optuna", "hydra.sweeper.n_trials=2"]
    process = begin(*words, cwd=project, forks=True)
    found = "runs/mine/sweep_*/0/checkpoints/step-*"
    wait_for(process, lambda: list(project.glob(found)), timeout=120)
    (sweep_dir,) = sweeps(project)
    os.kill(read_json(sweep_dir / "0" / "environment.json")["host"]["pid"], signal.SIGTERM)
    code, said = ended(process)
    assert code == 143, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "looplab: the sweep is not finished; the same command continues it"
    (row,) = table(sweep_dir)
    assert (row["status"], row["exit_code"]) == ("terminated", "143")
    assert not (sweep_dir / "1").exists()


# --- killed -----------------------------------------------------------------------------------------


@pytest.mark.promise(10)
@pytest.mark.fault(1, 38)
def test_a_sweep_interrupted_and_killed_continues_with_what_is_missing(project, begin):
    pause = "+callbacks.pause={_target_: told.Pause, step: 99}"
    words = ["experiment=mine", "epochs=10", "checkpoint.every=5st", pause, "callbacks.pause.step=99,7"]
    process = begin("--multirun", *words, cwd=project, forks=True)
    wait_for(process, lambda: list(project.glob("runs/mine/sweep_*/1/checkpoints/step-00000005")))
    (sweep_dir,) = sweeps(project)
    done = snapshot(sweep_dir / "0")
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "looplab: the sweep is not finished; the same command continues it"
    assert [row["status"] for row in table(sweep_dir)] == ["finished", "interrupted"]
    saved = read_json(sweep_dir / "1" / "outcome.json")["step"]
    assert saved < 50

    process = begin("--multirun", *words, cwd=project, forks=True)
    wait_for(process, lambda: not (sweep_dir / "1" / "outcome.json").exists())  # it goes on
    job = read_json(sweep_dir / "1" / "environment.json")["host"]["pid"]
    process.kill()
    ended(process)
    (project / "go").touch()
    said = trained("--multirun", *words, cwd=project, forks=True)  # perhaps the job is still saving
    wait_until_gone(job)
    assert re.search(r"^job 0 .* is already done$", said, re.MULTILINE)
    assert "continues after step" in said
    assert snapshot(sweep_dir / "0") == done
    assert [row["status"] for row in table(sweep_dir)] == ["finished", "finished"]
    trained(*words[:4], "callbacks.pause.step=7", "run_dir=reference", cwd=project)
    assert differing(arrays(sweep_dir / "1"), arrays(project / "reference")) == []


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_trials_it_would_have_made(project, begin):
    words = ["sweep=optuna", "experiment=mine", "epochs=1", "hydra.sweeper.n_trials=3"]
    words += [f"{RATES}=tag(log, interval(1e-4, 1e-1))", "hydra.sweeper.sampler.n_startup_trials=1"]
    process = begin(*words, cwd=project, forks=True)
    wait_for(process, lambda: list(project.glob("runs/mine/sweep_*/1/job.json")))
    process.kill()
    ended(process)
    (sweep_dir,) = sweeps(project)
    said = trained(*words, cwd=project, forks=True)
    assert re.search(r"^job 0 \(1 of 3\) .* is already done$", said, re.MULTILINE)
    assert "[I " not in said
    rows = sorted(table(sweep_dir), key=lambda row: row["job"])
    assert [(row["job"], row["status"]) for row in rows] == [(job, "finished") for job in "012"]

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=1))
    for row in rows:  # Optuna itself, in one go, would try the same
        trial = study.ask()
        assert row[RATES] == str(trial.suggest_float(RATES, 1e-4, 1e-1, log=True))
        study.tell(trial, float(row["val_loss"]))
    best = yaml.safe_load((sweep_dir / "optimization_results.yaml").read_text())
    assert best["best_value"] == study.best_value
