"""`python -m looplab.checkpoint list|verify|show DIR` as real processes."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from looplab.checkpoint import bundle
from tests.checkpoint.test_versions import VERSION_1
from tests.checkpoint.zoo import damage, files, headers
from tests.checkpoint.zoo.catalogue import ARRAYS, arrays_of, good, manifest_of, rewrite
from tests.process import HANGS, environment, forking_python, snapshot


def look(*words, cwd, **changes):
    """Runs the command; returns exit code, standard output, standard error."""
    command = [forking_python(), "-m", "looplab.checkpoint", *map(str, words)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=HANGS
    )
    return done.returncode, done.stdout, done.stderr


def rows(said):
    """The lines of a table by what stands first in them."""
    return {row[0]: row[1:] for line in said.splitlines() if (row := re.split(r"\s{2,}", line.strip()))[0]}


@pytest.fixture
def run(tmp_path):
    """A run's directory with checkpoints of the steps 3, 5 and 8, and a log."""
    good(tmp_path / "mine", 3, 5, 8)
    lines = [{"step": step, "epoch": step // 2, "split": "train", "values": {}} for step in (3, 4, 8)]
    lines.append({"step": 8, "epoch": 4, "split": "validation", "values": {"epoch_loss": 0.75}})
    (tmp_path / "mine" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path / "mine"


@pytest.mark.slow
def test_list_says_what_there_is_of_a_run_its_folder_and_one_checkpoint(run):
    before = snapshot(run)
    code, said, wrong = look("list", "mine", cwd=run.parent)
    assert (code, wrong) == (0, "")
    found = rows(said)
    assert found["step"] == ["epoch", "saved", "size", "monitored"]
    assert (found["3"][0], found["5"][0], found["8"][0]) == ("1", "-", "4")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", found[step][1]) for step in "358")
    size = sum(path.stat().st_size for path in (run / "checkpoints" / "step-00000003").iterdir())
    assert found["3"][2:] == [f"{size / 1000:.1f} kB", "val_loss 0.5", "best"]
    assert found["8"][3:] == ["val_loss 0.75"]  # by the log: the checkpoint names the best alone
    assert found["5"][3:] == ["-"]
    assert look("list", "checkpoints", cwd=run) == (0, said, "")
    code, one, _ = look("list", ".", cwd=run / "checkpoints" / "step-00000008")
    assert code == 0 and set(rows(one)) >= {"8"} and not {"3", "5"} & set(rows(one))
    assert snapshot(run) == before


@pytest.mark.fault(17, 18)
def test_list_and_verify_say_which_are_damaged(run):
    damage.shorten(arrays_of(run / "checkpoints" / "step-00000005"), "half")
    damage.one_bit_of_an_array_is_another(run / "checkpoints" / "step-00000008")
    code, said, wrong = look("list", run, cwd=run)
    assert (code, wrong) == (0, "")
    assert (
        rows(said)["5"][-1] == "damaged"
        and rows(said)["3"][-1] == "best"
        and rows(said)["8"][-1] == "val_loss 0.75"
    )
    (line,) = [line for line in said.splitlines() if line.startswith("damaged: ")]
    assert "step-00000005/arrays.safetensors cannot be read" in line
    code, said, wrong = look("verify", run, cwd=run)
    assert (code, wrong) == (3, "looplab: 2 of 3 cannot be used.\n")
    first, second, third = said.splitlines()
    assert first == "step-00000003  good"
    assert second.startswith("step-00000005  ") and "should be its header" in second
    assert third.startswith("step-00000008  ") and "does not match" in third


def test_verify_of_good_checkpoints_is_a_success(run):
    code, said, wrong = look("verify", run, cwd=run)
    assert (code, said.split(), wrong) == (
        0,
        [f"step-0000000{s}" if s else "good" for s in (3, 0, 5, 0, 8, 0)],
        "",
    )


def test_show_says_what_the_newest_holds(run):
    code, said, wrong = look("show", run, "--values", cwd=run)
    assert (code, wrong) == (0, "")
    found = rows(said)
    assert found["step"] == ["8, epoch 4"] and found["arrays"] == [str(len(ARRAYS))]
    assert found[["log", "metrics.jsonl,", "80", "bytes"][0]] == ["metrics.jsonl, 80 bytes"]
    assert found["models/model/dense/kernel"] == ["[2, 3]", "float32", "24", "0", "2.5", "5"]
    assert found["none"] == ["[0, 3]", "float64", "0", "-", "-", "-"]
    assert found["flags"] == ["[2]", "bool", "2", "0", "0.5", "1"]
    code, said, _ = look("show", run / "checkpoints" / "step-00000003", cwd=run)
    assert code == 0 and rows(said)["models/model/dense/kernel"] == ["[2, 3]", "float32", "24"]


@pytest.mark.fault(26)
def test_an_earlier_format_and_every_dtype_are_shown(tmp_path):
    code, said, wrong = look("show", VERSION_1, "--values", cwd=tmp_path)
    assert (code, wrong) == (0, "")
    found = rows(said)
    assert found["values/callbacks/0/state/bfloat16"] == ["[3]", "bfloat16", "6", "0", "1", "2"]
    assert found["values/callbacks/0/state/complex64"] == ["[3]", "complex64", "24", "-", "-", "-"]
    assert look("verify", VERSION_1, cwd=tmp_path) == (0, "step-00000004  good\n", "")


@pytest.mark.fault(33)
@pytest.mark.parametrize("spoil", [damage.there_is_no_manifest, headers.the_header_has_an_array_twice])
def test_show_of_a_damaged_one_is_the_error(spoil, run):
    spoil(run / "checkpoints" / "step-00000008")
    code, said, wrong = look("show", run, cwd=run)
    assert (code, said) == (3, "") and wrong.startswith("looplab: ") and "cannot be read: " in wrong
    assert len(wrong.splitlines()) == 1


HOSTILE = "\x1b]0;mine\x07\x1b[2J[bold red]x[/] :smile:\r\n\u202e\ud800"


@pytest.mark.share(1)
@pytest.mark.fault(33)
@pytest.mark.parametrize("action", ["list", "verify", "show"])
def test_no_name_steers_the_terminal(action, run):
    path = run / "checkpoints" / "step-00000008"
    named = HOSTILE.replace("\ud800", "")
    top = [{"monitor": HOSTILE, "value": 1.0, "step": 8}]
    values = {HOSTILE: HOSTILE, "progress": {"top": top}, "deep": {HOSTILE: [HOSTILE]}}
    facts = {"step": 8, "values": values, "logs": {HOSTILE: 1}}
    bundle.write(path, {named: np.zeros(2), f"{named}2": np.ones(3)}, facts)
    shutil.copytree(path, run / "checkpoints" / "step-00000009")
    rewrite(run / "checkpoints" / "step-00000009", step=9, values={HOSTILE: HOSTILE, "progress": HOSTILE})
    which = path if action == "show" else run
    code, said, wrong = look(action, which, cwd=run)
    assert code == (3 if action == "verify" else 0), wrong
    assert all(line.isprintable() for line in (said + wrong).splitlines())
    if action == "list":
        assert r"\x1b]0;mine" in said  # the rest is folded into its column
    if action == "show":
        assert r"\x1b]0;mine\x07\x1b[2J[bold red]x[/] :smile:\r\n\u202e" in said
    code, said, wrong = look("show", path, "--values", cwd=run, LANG="C", PYTHONIOENCODING="ascii")
    assert code == 0, wrong


@pytest.mark.fault(33)
def test_a_log_that_is_a_pipe_and_a_file_time_from_nowhere_do_not_matter(run):
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    os.utime(manifest_of(run / "checkpoints" / "step-00000003"), (2**40, 2**40))
    files.pipe(run / "checkpoints" / "step-00000005", arrays_of)
    code, said, wrong = look("list", run, cwd=run)
    assert (code, wrong) == (0, "") and "it is a pipe, not a file" in said


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "list miin",
            r"miin: there is no such directory\. Did you mean 'mine'\? Give the directory of a run",
        ),
        ("list nowhere/at/all", r"there is no such directory\. Give the directory"),
        ("list mine/metrics.jsonl", r"there is no such directory\."),
        ("verify .", r"\. has no checkpoint\. Give the directory of a run"),
        ("lst mine", r"on the command line: .*'lst'.* Did you mean 'list'\?"),
        ("show mine --valeus", r"unrecognized arguments: --valeus\. Did you mean '--values'\?"),
        ("verify mine --values", r"unrecognized arguments: --values\. See"),
        ("list", r"required: DIR"),
        ("", r"required: list\|verify\|show"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(run, words, says):
    code, said, wrong = look(*words.split(), cwd=run.parent)
    assert (code, said, len(wrong.splitlines())) == (2, "", 1), wrong
    assert wrong.startswith("looplab: ") and re.search(says, wrong), wrong


def test_help_names_the_actions(tmp_path):
    code, said, _ = look("--help", cwd=tmp_path)
    assert code == 0 and all(f"  {name} " in said for name in ("list", "verify", "show"))


COUNTED = """
import json, sys
calls = 0

def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")

sys.setprofile(count)
from looplab.checkpoint.__main__ import main
code = main(sys.argv[1:])
sys.setprofile(None)
print(json.dumps([code, calls, sorted(sys.modules)]))
"""


def test_it_is_quick_and_needs_no_tensorflow(run):
    """In calls, which no other process makes more: a million of them take a third of a second."""
    command = [sys.executable, "-c", COUNTED, "list", str(run)]
    done = subprocess.run(command, cwd=run, env=environment(), capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    code, calls, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and not {"tensorflow", "keras", "hydra"} & set(modules)
    assert calls < 1_000_000
