"""`python -m looplab.train` as people meet it: real processes in a working directory of their own."""

import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.process import (
    HANGS,
    PROJECT,
    ROOT,
    arrays,
    differing,
    ended,
    read_json,
    records,
    scalars,
    snapshot,
    start,
    steps,
    train,
    trained,
    write,
)
from tests.test_packaging import build

# Writes down at the end of the process whether the heavy libraries were loaded, which looplab, and for how
# long the process has worked itself: others beside it do not make that longer.
WITNESS = {
    "sitecustomize.py": """
import atexit, os, sys, time

def tell():
    with open(os.environ["WITNESS"], "w") as file:
        print(*[name for name in ("tensorflow", "keras") if name in sys.modules], file=file)
        print(getattr(sys.modules.get("looplab"), "__file__", ""), file=file)
        print(time.process_time(), file=file)

atexit.register(tell)
"""
}


@pytest.fixture(scope="module")
def witness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("witness")
    write(folder, WITNESS)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of someone's own, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("projects") / "mein Prüfstand (1)"
    write(folder, PROJECT)
    return folder


def quick(witness, cwd, *words, anew=False):
    """Runs the command where it should end at once; returns (code, said, seconds of work, modules).

    It is forked from a process that has no TensorFlow either, unless `anew`.
    """
    told = witness / "told"
    how = {"anew": True} if anew else {"served": {"light": True}}
    code, said = train(*words, cwd=cwd, PYTHONPATH=str(witness), WITNESS=str(told), **how)
    heavy, _, seconds = told.read_text().splitlines()
    return code, said, float(seconds), heavy


# --- a run and its directory ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Two epochs of the digits in a git repository, the same again, and one epoch more."""
    folder = tmp_path_factory.mktemp("digits")
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    (folder / "mine.py").write_text("1\n")
    for words in (["init"], ["add", "."], [*author, "commit", "-m", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, timeout=HANGS)
    (folder / "mine.py").write_text("2\n")
    said = [trained("+experiment=digits", "epochs=2", cwd=folder)]
    (run_dir,) = (folder / "runs" / "digits").iterdir()
    files = [snapshot(run_dir)]
    here = f"run_dir={run_dir.relative_to(folder)}"
    said.append(trained("+experiment=digits", "epochs=2", here, cwd=folder))
    files.append(snapshot(run_dir))
    saved = arrays(run_dir)
    said.append(trained("experiment=digits", "epochs=3", here, cwd=folder))
    return run_dir, said, files, saved


def written(files, name):
    (content,) = [files[path] for path in files if re.fullmatch(name, path)]
    return content.decode()


def test_a_run_directory_holds_what_the_contract_says(digits):
    _, _, (files, _), _ = digits
    expected = {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "log.txt",
        "outcome.json",
        *(f"checkpoints/step-000000{s}/arrays.safetensors" for s in (23, 46)),
        *(f"checkpoints/step-000000{s}/manifest.json" for s in (23, 46)),
    }
    others = sorted(set(files) - expected)
    assert expected <= set(files)
    assert [path.rpartition("/")[0] for path in others] == [
        "tensorboard",
        "tensorboard/system",
        "tensorboard/train",
        "tensorboard/validation",
    ]


def test_config_yaml_is_the_composed_configuration(digits):
    _, _, (files, _), _ = digits
    config = yaml.safe_load(files["config.yaml"])
    assert config["epochs"] == 2
    assert config["model"]["_target_"] == "looplab.models.ConvNet"
    assert config["optimizer"]["learning_rate"] == 0.003
    assert config["schedule"]["warmup_steps"] == "1ep"


def test_environment_json_says_where_and_with_what(digits):
    _, _, (files, _), _ = digits
    environment = yaml.safe_load(files["environment.json"])
    assert len(environment["git"]["commit"]) == 40
    assert environment["git"]["changed_files"] == ["mine.py"]
    assert environment["seed"] == 0
    assert environment["devices"] == ["/device:CPU:0"]
    assert environment["execution"]["mode"] == "graph"
    assert environment["command"][-2:] == ["+experiment=digits", "epochs=2"]


def test_metrics_jsonl_has_steps_evaluations_and_epochs(digits):
    run_dir, _, _, _ = digits
    found = records(run_dir)
    own = [(r["step"], r["epoch"]) for r in found if set(r["values"]) == {"loss"}]
    assert own == [(10, 1), (20, 1), (30, 2), (40, 2), (50, 3), (60, 3)]
    rest = [(r["step"], r["split"], sorted(r["values"])) for r in found if set(r["values"]) != {"loss"}]
    evaluated, trained_ = ["epoch_accuracy", "epoch_loss"], ["epoch_accuracy", "epoch_loss", "learning_rate"]
    assert rest == [
        line for s in (23, 46, 69) for line in ((s, "validation", evaluated), (s, "train", trained_))
    ]


@pytest.mark.promise(31)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_tensorboard_shows_the_same_numbers_once(digits, split):
    run_dir, _, _, _ = digits
    wanted = [
        (tag, r["step"], pytest.approx(value, rel=1e-6))
        for r in records(run_dir)
        if r["split"] == split
        for tag, value in r["values"].items()
    ]
    assert scalars(run_dir, split) == sorted(wanted, key=lambda entry: entry[:2])


def test_outcome_json_says_how_it_ended(digits):
    _, _, (files, _), _ = digits
    outcome = yaml.safe_load(files["outcome.json"])
    assert (outcome["status"], outcome["exit_code"], outcome["reason"]) == ("finished", 0, None)
    assert (outcome["step"], outcome["epoch"], outcome["last_checkpoint"]) == (46, 2, "step-00000046")
    assert sum(outcome["wall_time"].values()) == pytest.approx(outcome["seconds"], rel=0.01)
    assert list(outcome["start_up"])[:4] == ["launch", "compose", "import", "build"]
    assert outcome["best"]["monitor"] == "val_loss"
    assert outcome["best"]["step"] in (23, 46)


def test_log_txt_has_what_the_console_said(digits):
    run_dir, (said, _, _), (files, _), _ = digits
    logged = [line[20:].strip() for line in files["log.txt"].decode().splitlines()]
    assert [line for line in logged if line] == [line.strip() for line in said.splitlines() if line.strip()]
    assert re.search(rf"^run +runs/digits/{run_dir.name}$", said, re.MULTILINE)
    assert re.search(r"^epoch 2/2 .*\bloss 0\.\d{4}.*\bval_accuracy 0\.\d{4}", said, re.MULTILINE)


def test_native_libraries_do_not_greet(digits):
    _, said, _, _ = digits
    assert not re.search(r"oneDNN|absl|cuda|rebuild TensorFlow|^[WIE]0000", "".join(said), re.MULTILINE)


def test_the_same_command_again_has_nothing_to_do(digits):
    _, (_, said, _), (before, after), _ = digits
    assert said.startswith("nothing is left to do: the run has 46 of 46 steps")
    assert after == before


def test_more_epochs_continue_the_run(digits):
    run_dir, (_, _, said), _, saved = digits
    assert "continues after step 46" in said
    assert "epochs (2 -> 3)" in said
    (warning,) = [line for line in said.splitlines() if line.startswith("warning")]
    assert "total_steps 46 -> 69" in warning  # its schedule ends with the run
    assert steps(run_dir)[-1] == 69
    assert int(arrays(run_dir)["loop/step"]) == 69
    assert differing(arrays(run_dir, 46), saved) == []
    assert read_json(run_dir / "outcome.json")["step"] == 69


@pytest.mark.fault(40, 69)
def test_nobody_reading_and_nowhere_to_write_do_not_end_a_run(digits, tmp_path):
    """A pipe closed after one line, in a working directory where nothing can be made; another seed.

    That the same seed is the same run, bit by bit, the wheel's test below shows.
    """
    words = ["+experiment=digits", "epochs=2", "seed=1", f"run_dir={tmp_path}/other"]
    process = start(*words, cwd="/proc" if Path("/proc").is_dir() else "/")
    assert process.stdout.readline().startswith("model")
    process.stdout.close()
    assert process.wait(HANGS) == 0
    assert read_json(tmp_path / "other" / "outcome.json")["status"] == "finished"
    assert "epoch 2/2" in (tmp_path / "other" / "log.txt").read_text()
    _, _, _, saved = digits
    differ = set(differing(arrays(tmp_path / "other"), saved))
    assert {"models/model/block/conv2d/kernel", "models/model/dense/kernel"} <= differ


# --- someone's own project, in awkward surroundings ----------------------------------------------


@pytest.fixture(scope="module")
def own_run(project):
    """The project's own experiment, with no home and no language."""
    plain = {"HOME": None, "LANG": "C", "LC_ALL": "C"}
    run_dir = project / "läufe" / "nr. [1]"
    return run_dir, trained("experiment=mine", f"run_dir={run_dir}", cwd=project, **plain)


@pytest.mark.fault(68, 69)
def test_an_experiment_of_ones_own_runs_wherever_it_is(own_run):
    run_dir, said = own_run
    assert "läufe/nr. [1]" in said
    assert "läufe" in (run_dir / "log.txt").read_text(encoding="utf-8")
    assert read_json(run_dir / "outcome.json")["status"] == "finished"
    values = records(run_dir)[-1]["values"]
    assert values["epoch_three"] == 3.0  # its own train_step
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["model"]["units"] == 16


def test_ones_own_configuration_wins_over_the_one_of_the_same_name(tmp_path, witness):
    write(
        tmp_path,
        {
            "conf/experiment/digits.yaml": "# @package _global_\nepochs: 77\n",
            "conf/optimizer/adam.yaml": "_target_: mine.Adam\n",
        },
    )
    code, said, _, _ = quick(witness, tmp_path, "experiment=digits", "--cfg", "job")
    assert code == 0
    config = yaml.safe_load(said)
    assert (config["epochs"], config["optimizer"]["_target_"]) == (77, "mine.Adam")


@pytest.fixture(scope="module")
def mistakes(project, tmp_path_factory):
    """Two runs with a mistake in someone's own code, side by side."""
    folder = tmp_path_factory.mktemp("mistakes")
    started = {
        "step": start("experiment=mine", "+trainer.fail=true", f"run_dir={folder}/step", cwd=project),
        "data": start("experiment=mine", "+data.source.fail=true", f"run_dir={folder}/data", cwd=project),
    }
    return {name: (folder / name, *ended(process)) for name, process in started.items()}


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("where", "line", "error"),
    [
        ("step", 'raise RuntimeError("a mistake in train_step")', "RuntimeError: a mistake in train_step"),
        ("data", 'raise KeyError("a mistake in the data")', "KeyError: 'a mistake in the data'"),
    ],
)
def test_a_mistake_in_ones_own_code_is_shown_where_it_is(mistakes, where, line, error):
    run_dir, code, said = mistakes[where]
    assert code == 1
    assert "mine.py" in said
    assert line in said
    assert error in said
    assert "hydra" not in said.lower().replace("hydra_full_error", "")
    assert "tensorflow/python" not in said
    outcome = read_json(run_dir / "outcome.json")
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 1)
    assert re.fullmatch(rf"{re.escape(error)} \(/.*mine\.py, line \d+, in \w+\)", outcome["reason"])
    *_, told, last = said.splitlines()
    assert told == f"looplab: {outcome['reason']}"  # below the traceback
    assert json.loads(last)["looplab"]["cause"] == outcome["reason"]
    assert (run_dir / "crash.md").read_text().startswith(f"# {outcome['reason']}\n")
    assert (run_dir / "config.yaml").exists()


# --- what needs no TensorFlow ----------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--help"],
            ["+experiment=NAME", "  mine  ", "  two rows of points\n", "optimizer: adam, adamw", "seed=0"],
        ),
        (["experiment=digits", "--cfg", "job"], ["epochs: 40", "_target_: looplab.models.ConvNet"]),
        (["+experiment=digits", "--cfg", "job", "--package", "optimizer"], ["learning_rate: 0.003"]),
        (["--info", "defaults", "+experiment=mine"], ["experiment/mine", "optimizer/sgd"]),
        (["--info", "searchpath"], ["working directory"]),
        (["--hydra-help"], ["Hydra"]),
    ],
    ids=str,
)  # fmt: skip
def test_asking_costs_no_tensorflow_and_leaves_nothing(project, witness, words, expected):
    before = snapshot(project)
    code, said, seconds, heavy = quick(witness, project, *words, anew=words == ["--help"])
    assert code == 0, said
    assert [word for word in expected if word not in said] == [], said
    assert heavy == ""
    assert seconds < (5 if words == ["--help"] else 3)  # about half a second, and less
    assert snapshot(project) == before


@pytest.mark.share(5)
@pytest.mark.promise(40)
@pytest.mark.fault(62)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["no experiment: give +experiment=NAME", "digits,", "mine"]),
        (["+experiment=digts"], ["experiment: there is no option 'digts'", "Did you mean 'digits'?"]),
        (["experiment=digits", "epohcs=2"], ["epohcs", "the configuration", "Did you mean 'epochs'?"]),
        (["experiment=digits", "+epohcs=2"], ["epohcs", "the configuration", "Did you mean 'epochs'?"]),
        (["experiment=digits", "checkpoint.evry=2"], ["checkpoint.evry", "keep_last", "'every'?"]),
        (["experiment=digits", "++checkpoint.evry=2"], ["checkpoint.evry", "keep_last", "'every'?"]),
        (["experiment=digits", "chekpoint.every=2"], ["chekpoint", "Did you mean 'checkpoint'?"]),
        (["experiment=digits", "model.filterz=3"], ["model.filterz", "'filters'?", "+model.filterz="]),
        (["experiment=digits", "epochs=abc"], ["epochs: expected a whole", "'abc'", "line: epochs=abc"]),
        (["experiment=digits", "steps=3"], ["epochs=40 and steps=3", "epochs=null"]),
        (["experiment=digits", "optimizer=adm"], ["optimizer", "'adm'", "adamw, none, sgd", "'adam'?"]),
        (["experiment=digits", "+optimizer=sgd"], ["optimizer", "without a plus"]),
        (["experiment=digits", "+epochs=3"], ["epochs", "without a plus"]),
        (["experiment=digits", "model=null"], ["model: null is not an option; valid are convnet, none"]),
        (["experiment=digits", "seed=0,1"], ["seed=0,1", "--multirun"]),
        (["experiment=digits", "run_dir=mine.py/x"], ["run_dir", "mine.py is a file"]),
        (["experiment=broken"], ["not YAML", "conf/experiment/broken.yaml:2"]),
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_a_wrong_word_is_refused_at_once(project, witness, words, expected):
    write(project, {"conf/experiment/broken.yaml": "# @package _global_\ncheckpoint: {every: 2\n"})
    before = snapshot(project)
    code, said, seconds, heavy = quick(witness, project, *words, anew=not words)
    (project / "conf/experiment/broken.yaml").unlink()
    assert code == 2, said
    assert said.startswith("looplab: ")
    assert [word for word in expected if word not in said] == [], said
    assert "Traceback" not in said
    assert heavy == ""
    assert seconds < (3 if words else 5)
    assert {**snapshot(project), "conf/experiment/broken.yaml": b""}.keys() == before.keys()


def test_looplab_runs_from_the_checkout_it_is_worked_on_in(witness):
    code, said, _, _ = quick(
        witness, ROOT, "experiment=digits", "--cfg", "job", "--package", "optimizer", anew=True
    )
    assert (code, said.splitlines()[-1]) == (0, "learning_rate: 0.003")


def test_and_by_way_of_a_link_to_it(tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    words = ["experiment=digits", "--cfg", "job", "--package", "optimizer"]
    code, said = train(*words, cwd=ROOT, python=["-P"], PYTHONPATH=str(tmp_path / "link"))
    assert (code, said.splitlines()[-1]) == (0, "learning_rate: 0.003")


def test_never_refuses_at_once_to_continue(own_run, project, witness):
    run_dir, _ = own_run
    before = snapshot(run_dir)
    words = ["experiment=mine", "resume=never", f"run_dir={run_dir}"]
    code, said, _, heavy = quick(witness, project, *words)
    assert (code, heavy) == (2, "")
    assert "holds a run" in said
    assert snapshot(run_dir) == before


def test_an_unknown_option_of_the_command_is_a_usage_error(tmp_path, witness):
    code, said, _, heavy = quick(witness, tmp_path, "--cgf", "job")
    assert (code, heavy) == (2, "")
    assert "unrecognized arguments: --cgf" in said


def test_what_only_python_can_know_is_refused_without_a_traceback(project):
    """The second phase: after the import, before anything is made. More in tests/experiment/test_build.py."""
    before = snapshot(project)
    words = ["experiment=mine", "~model.units", "model._target_=mine.Mine"]
    code, said = train(*words, cwd=project)
    assert code == 2
    assert said.startswith("looplab: model._target_: mine.Mine is not a keras.Model")
    assert said.splitlines()[1:] == ["    on the command line: model._target_=mine.Mine"]
    assert snapshot(project) == before


@pytest.mark.slow
def test_a_sweep_tries_every_job_and_returns_the_first_failure(project, witness):
    words = ["--multirun", "experiment=mine", "checkpoint.every=0st,often", "epochs=1"]
    code, said, _, heavy = quick(witness, project, *words)
    assert (code, heavy) == (2, "")
    assert re.findall(r"^looplab: checkpoint.every: .* got '(\w+)'", said, re.MULTILINE) == ["0st", "often"]
    (sweep_dir,) = (project / "runs" / "mine").glob("sweep_*")
    assert (sweep_dir / "results.csv").exists()


# --- the wheel ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_copied_experiment_in_the_installed_wheel_runs_as_the_checkout_does_bit_by_bit(
    digits, tmp_path, witness
):
    """More of a project with an installed looplab is in test_research_project.py."""
    checkout, _, _, saved = digits
    with zipfile.ZipFile(build("wheel", ROOT, tmp_path / "built")) as wheel:
        wheel.extractall(tmp_path / "site")
    shipped = (tmp_path / "site" / "looplab" / "conf" / "experiment" / "digits.yaml").read_text("utf-8")
    write(tmp_path / "work", {"conf/experiment/ours.yaml": shipped})
    told = tmp_path / "told"
    said = trained(
        "+experiment=ours",
        "epochs=2",
        "run_dir=run",
        cwd=tmp_path / "work",
        python=["-P"],
        PYTHONPATH=f"{tmp_path / 'site'}:{witness}",
        WITNESS=str(told),
    )
    assert told.read_text().splitlines()[1] == str(tmp_path / "site" / "looplab" / "__init__.py")
    assert "runs/" not in said
    run_dir = tmp_path / "work" / "run"
    assert read_json(run_dir / "outcome.json")["status"] == "finished"
    assert differing(arrays(run_dir), saved) == []
    assert records(run_dir) == [r for r in records(checkout) if r["step"] <= 46]
