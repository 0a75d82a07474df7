"""An object store is refused by name wherever a run's path is given, before anything is made."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import looplab
from looplab import predictions
from looplab.checkpoint import __main__ as of_checkpoints
from looplab.cli import run_arguments
from looplab.errors import ConfigurationError, Refused, StorageError
from looplab.options.paths import local, not_local
from looplab.runs import directory
from tests.config.in_process import inside, say
from tests.process import PROJECT, environment, forking_python, snapshot, write

GIVEN = ["gs://bucket/x.npz", "file:///tmp/x.npz", Path("gs://bucket/x.npz")]
FOREIGN = [
    *(
        "gs://bucket/x",
        "GS://bucket/x",
        "s3://b/x",
        "hdfs://host:9/x",
        "file:///tmp/x",
        "http://h/x",
        "file:/x",
    ),
    *("abfss://c@a.dfs.core.windows.net/x", "dbfs:/x", " gs://b/x", "runs/gs://b/x", "simplecache::s3://b/x"),
    *("a\0b", Path("s3://b/x"), Path("file:///x")),
]
LOCAL = [
    *(
        "runs/x",
        "/abs/x",
        "~/x",
        "./gs:/x",
        "C:\\runs\\x",
        "C:/runs/x",
        "runs/2026-11-30_12:30",
        "a:b",
        "gs:x",
    ),
    *("runs/lr=0.1//x", "läufe/a b", Path("runs/x")),
]


@pytest.mark.parametrize("given", FOREIGN, ids=repr)
def test_what_no_local_file_system_has(given):
    with pytest.raises(Refused, match=r"^key: .* local .*folder") as caught:
        local(given, "key")
    assert "\0" in str(given) or "names the scheme " in str(caught.value)


@pytest.mark.parametrize("given", LOCAL, ids=repr)
def test_what_a_local_file_system_has(given):
    assert not_local(given) is None
    assert local(given, "key") == Path(given)


NO_PATHS = {
    "a\0b": "'a\\\\x00b' has a NUL character",
    "runs/" + 300 * "x": r"'runs/x{110,}\.\.\. has a name of 300 bytes, but file systems allow 255\.",
    "runs/" + 130 * "é": r"has a name of 260 bytes",
    "runs/" + 2000 * "y/": "has 4005 bytes; at most 3800 leave space",
    "runs/\ud800": "has half of a character",
    "~nobody-of-this-name/x": "the home folder of an unknown user",
}


@pytest.mark.parametrize("given", NO_PATHS, ids=range(len(NO_PATHS)))
def test_what_no_file_system_takes_is_said_in_one_short_line(given):
    with pytest.raises(Refused, match=NO_PATHS[given]) as caught:
        local(given, "key")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize("given", NO_PATHS, ids=range(len(NO_PATHS)))
def test_and_refused_wherever_a_program_gives_it(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for entry, act in PYTHON.items():  # `restore` takes what has no "/" for a word
        with pytest.raises(ConfigurationError, match=rf"^({entry.strip()}|restore): "):
            act(given)
    assert list(tmp_path.iterdir()) == []


def trainer(**more):
    return looplab.Trainer(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", **more)


X = np.ones((4, 2), "float32")
PYTHON = {
    "run_dir": lambda path: trainer(run_dir=path),
    "initialize_from": lambda path: trainer(initialize_from=path),
    "initialize_from ": lambda path: trainer(initialize_from={"path": path, "partial": True}),
    "checkpoint": lambda path: trainer().restore(path),
    "checkpoint ": lambda path: looplab.load("runs/x", path),
    "run_dir ": looplab.load,
    "folder": lambda path: trainer().replay(path, X, X[:, :1]),
    "directory": looplab.checkpoint.read,
    "directory ": looplab.checkpoint.verify,
    "directory  ": looplab.checkpoint.read_manifest,
    "directory   ": looplab.checkpoint.Store,
    "path": lambda path: predictions.write(path, [X]),
    "path ": predictions.check,
    "index_dir": lambda path: looplab.data.records(__file__, lambda record: record, path),
}


@pytest.mark.parametrize("given", GIVEN, ids=repr)
@pytest.mark.parametrize("entry", PYTHON, ids=str.strip)
def test_in_python(entry, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = entry.strip()
    with pytest.raises(ConfigurationError, match=rf"^{key}: .* names the scheme (gs|file)://.*mounted"):
        PYTHON[entry](given)
    assert list(tmp_path.iterdir()) == []


WORDS = {
    "run_dir": ["+experiment=mine", "run_dir={}"],
    "run_dir ": ["+experiment=x"],
    "run_dir  ": ["--multirun", "+experiment=mine", "seed=1,2", "run_dir={}"],
    "run_dir   ": ["+sweep=optuna", "+experiment=mine", "seed=range(3)", "run_dir={}"],
    "from_run": ["from_run={}"],
    "initialize_from": ["+experiment=mine", "initialize_from={}"],
    "initialize_from ": ["+experiment=mine", "initialize_from={{path:'{}',partial:true}}"],
}


@pytest.mark.share(4)
@pytest.mark.parametrize("given", GIVEN[:2])
@pytest.mark.parametrize("entry", WORDS, ids=str.strip)
def test_on_the_command_line_and_in_a_file(entry, given, tmp_path, monkeypatch):
    text = PROJECT["conf/experiment/mine.yaml"] + f"run_dir: {given}\n"
    write(tmp_path, PROJECT | {"conf/experiment/x.yaml": text})
    before = snapshot(tmp_path)
    said = say([word.format(given) for word in WORDS[entry]], tmp_path, {}, monkeypatch)
    assert said.code == 2, said.text
    ((message, where),) = said.problems
    scheme = given.partition("/")[0]
    assert message.startswith(f"{entry.strip()}: ") and f"names the scheme {scheme}//" in message
    assert (
        "conf/experiment/x.yaml" in where if "x" in WORDS[entry][0].split("=") else where.startswith("on the")
    )
    assert snapshot(tmp_path) == before


@pytest.mark.share(4)
@pytest.mark.parametrize("given", [300 * "x", "~nobody-of-this-name/x"], ids=["long", "home"])
@pytest.mark.parametrize("entry", WORDS, ids=str.strip)
def test_what_no_file_system_takes_on_the_command_line_and_in_a_file(entry, given, tmp_path, monkeypatch):
    text = PROJECT["conf/experiment/mine.yaml"] + f"run_dir: {given}\n"
    write(tmp_path, PROJECT | {"conf/experiment/x.yaml": text})
    before = snapshot(tmp_path)
    said = say([word.format(given) for word in WORDS[entry]], tmp_path, {}, monkeypatch)
    assert said.code == 2, said.text
    assert len(said.problems) == 1 and said.problems[0][0].startswith(f"{entry.strip()}: ")
    assert 300 * "x" not in said.text and max(map(len, said.text.splitlines())) < 420
    assert snapshot(tmp_path) == before


def test_a_nul_of_a_file_is_refused(tmp_path, monkeypatch):
    text = PROJECT["conf/experiment/mine.yaml"] + 'run_dir: "a\\0b"\n'
    write(tmp_path, PROJECT | {"conf/experiment/x.yaml": text})
    said = say(["+experiment=x"], tmp_path, {}, monkeypatch)
    assert said.code == 2 and "\0" not in said.text
    assert "run_dir: expected a path or null, got 'a\\x00b'" in said.text


def test_a_folder_of_configurations_likewise(tmp_path, monkeypatch):
    for given in (300 * "x", "~nobody-of-this-name/x"):
        said = say(["--config-dir", given], tmp_path, {}, monkeypatch)
        assert said.code == 2 and "there is no such directory" in said.text and 300 * "x" not in said.text


def test_a_folder_that_cannot_be_looked_at_is_the_storages_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(directory.Path, "exists", unreachable)
    with pytest.raises(StorageError, match=r"^run_dir: runs/x cannot be reached: File name too long\.$"):
        directory.choose("runs/x", "auto", "mine")


def unreachable(path):
    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def test_how_a_run_goes_on_is_no_path(tmp_path, monkeypatch):
    said = say(["+experiment=mine", "resume=gs://b/x"], tmp_path, PROJECT, monkeypatch)
    assert said.code == 2 and "resume: expected one of auto, latest, never, got 'gs://b/x'" in said.text


@pytest.mark.parametrize("given", GIVEN[:2])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("run_dir", ["run_dir={}"]),
        ("checkpoint", ["run_dir=x", "checkpoint={}"]),
        ("output", ["run_dir=x", "output='{}'"]),
    ],
)
def test_commands_on_a_run(key, words, given):
    own = {"output": "a file"} if key == "output" else {}
    with pytest.raises(Refused) as caught:
        run_arguments.RunWords("evaluate", own).read([word.format(given) for word in words])
    (problem,) = caught.value.problems
    assert (problem.key, problem.where) == (key, f"on the command line: {key}={given}")


@pytest.mark.parametrize("action", ["list", "verify", "show"])
def test_the_command_on_checkpoints(action, tmp_path, capsys):
    with inside(tmp_path):
        assert of_checkpoints.main([action, "gs://bucket/x"]) == 2
    assert capsys.readouterr().err.startswith("looplab: DIR: 'gs://bucket/x' names the scheme gs://")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "evaluate", "predict", "replay"])
def test_the_processes_end_with_2(module, tmp_path):
    words = ["run_dir=gs://bucket/x", *(["+experiment=digits"] if module == "train" else [])]
    done = subprocess.run(
        [forking_python(), "-m", f"looplab.{module}", *words],
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("looplab: run_dir: ") and "names the scheme gs://" in done.stderr
    assert list(tmp_path.iterdir()) == []
