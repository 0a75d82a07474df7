"""The small files of a run directory, and the facts in them."""

import re
import subprocess

import pytest

from looplab.errors import CheckpointError, ConfigurationError, Interrupted
from looplab.runs import directory
from tests.process import HANGS, read_json


def a_run(path):
    path.mkdir(parents=True)
    (path / "metrics.jsonl").touch()
    return path


def chosen(tmp_path, experiment="digits", run_dir=None, resume="auto"):
    return directory.choose(str(run_dir) if run_dir else None, resume, experiment, tmp_path)


def git(folder, *words):
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, timeout=HANGS)


def facts(folder, monkeypatch, **more):
    monkeypatch.chdir(folder)
    directory.write_environment(folder / "run", **more)
    return read_json(folder / "run" / "environment.json")


def test_environment_names_versions_host_and_what_the_trainer_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = facts(tmp_path, monkeypatch, seed=3)
    assert {"python", "looplab", "tensorflow", "keras", "numpy"} <= set(found["versions"])
    assert found["host"]["cpus"] >= 1
    assert found["seed"] == 3
    assert found["git"] is None  # no repository here


def test_environment_has_the_commit_and_the_files_that_differ_from_it(tmp_path, monkeypatch):
    git(tmp_path, "init")
    assert facts(tmp_path, monkeypatch)["git"] is None  # no commit yet
    names = ["first.py", "sub folder/ünter.py", "untouched.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "add", *names)
    git(tmp_path, "commit", "-m", "one")
    assert facts(tmp_path, monkeypatch)["git"]["changed_files"] == []
    for name in names[:2]:
        (tmp_path / name).write_text("2\n")
    found = facts(tmp_path / "sub folder", monkeypatch)["git"]
    assert len(found["commit"]) == 40
    assert found["changed_files"] == names[:2]


def test_environment_without_git_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts(tmp_path, monkeypatch)["git"] is None


def test_secrets_are_written_nowhere(tmp_path, monkeypatch):
    words = ["train.py", "+model.api_key=hidden", "epochs=2", "--cfg", "+model.tokenizer=words"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.chdir(tmp_path)
    directory.write_environment(tmp_path)
    said = read_json(tmp_path / "environment.json")["command"]
    assert said == ["train.py", "+model.api_key=***", "epochs=2", "--cfg", "+model.tokenizer=words"]


@pytest.mark.parametrize(
    ("error", "reason", "expected"),
    [
        (None, None, ("finished", 0, None)),
        (None, "enough", ("stopped", 0, "enough")),
        (ConfigurationError("no"), None, ("refused", 2, "no")),
        (CheckpointError("no"), None, ("failed", 3, "no")),
        (Interrupted("at 3"), "interrupted", ("interrupted", 130, "at 3")),
        (KeyboardInterrupt(), None, ("interrupted", 130, "aborted by a second Ctrl-C")),
        (KeyError("column"), None, ("failed", 1, "KeyError: 'column'")),
    ],
)
def test_an_ending_is_a_status_a_code_and_a_reason(error, reason, expected):
    assert tuple(directory.ending(error, reason).values()) == expected


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "outcome.json"
    ended = directory.ending(None)
    directory.write_outcome(tmp_path, ended)
    assert directory.read_outcome(tmp_path) == ended

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        directory.write_outcome(tmp_path, {"status": "failed"})
    assert read_json(path).items() >= ended.items() and directory.read_outcome(tmp_path) == ended


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "finis'])
def test_an_outcome_that_is_none_is_no_outcome(tmp_path, content):
    assert directory.read_outcome(tmp_path) is None
    (tmp_path / "outcome.json").write_text(content)
    assert directory.read_outcome(tmp_path) is None


def test_a_run_is_named_by_its_experiment_and_the_time(tmp_path):
    run_dir = chosen(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run_dir.name)
    assert run_dir.parent == tmp_path / "digits"
    assert not run_dir.parent.exists()


def test_two_runs_of_one_second_have_two_directories(tmp_path, monkeypatch):
    class Frozen(directory.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(directory, "datetime", Frozen)
    names = [a_run(chosen(tmp_path)).name for _ in range(12)]
    assert names[:3] == ["2026-01-02_03-04-05", "2026-01-02_03-04-05_1", "2026-01-02_03-04-05_2"]
    assert chosen(tmp_path, resume="latest").name == names[-1] == "2026-01-02_03-04-05_11"


def test_latest_is_the_newest_directory_that_holds_a_run(tmp_path):
    assert chosen(tmp_path, resume="latest").parent == tmp_path / "digits"
    newest = a_run(tmp_path / "digits" / "2026-01-02_03-04-05")
    a_run(tmp_path / "digits" / "2025-12-31_03-04-05_7")
    a_run(tmp_path / "another" / "2026-02-01_03-04-05")
    (tmp_path / "digits" / "2026-05-01_00-00-00").mkdir()  # nobody trained there
    assert chosen(tmp_path, resume="latest") == newest


def test_never_refuses_a_directory_that_holds_a_run(tmp_path):
    assert chosen(tmp_path, run_dir=tmp_path, resume="never") == tmp_path
    run = a_run(tmp_path / "mine")
    with pytest.raises(ConfigurationError, match=r"resume=never, but .*mine holds a run.*resume=auto"):
        chosen(tmp_path, run_dir=run, resume="never")


def test_a_run_directory_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"run_dir: .*file/x cannot be a folder, because .*file is"):
        chosen(tmp_path, run_dir=tmp_path / "file" / "x")


@pytest.mark.parametrize("name", ["../evil", "", "a b", ".hidden", "a" * 200])
def test_an_experiment_whose_name_is_no_folder_needs_a_chosen(tmp_path, name):
    with pytest.raises(ConfigurationError, match="cannot name a folder; give run_dir"):
        chosen(tmp_path, experiment=name)
    assert chosen(tmp_path, experiment=name, run_dir=tmp_path / "x") == tmp_path / "x"


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"execution": [1]}', '{"execution": {"choice": 3}}', "{}"]
)
def test_what_an_earlier_start_chose_is_nothing_where_it_cannot_be_read(content, tmp_path):
    if content is not None:
        (tmp_path / "environment.json").write_text(content)
    assert directory.earlier_choice(tmp_path) == {}
    (tmp_path / "environment.json").write_text('{"execution": {"choice": {"mode": "graph"}}}')
    assert directory.earlier_choice(tmp_path) == {"mode": "graph"}
