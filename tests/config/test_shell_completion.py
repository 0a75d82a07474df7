"""Completion as bash does it: the script is evaluated, and its function called as the Tab key does."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.process import HANGS, PROJECT, ROOT, write

OTHER = "_other() { COMPREPLY=(what completed python before); }; complete -F _other python"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my project")
    write(folder, PROJECT)
    return folder


@pytest.fixture(scope="module")
def script(project):
    command = [sys.executable, "-m", "looplab.train", "-sc", "install=bash"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_can_be_taken_away(project, script):
    command = [sys.executable, "-m", "looplab.train", "-sc", "uninstall=bash"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=HANGS)
    shell = f"{script}\n{done.stdout}\ncomplete -p python train looplab; declare -F _looplab_complete"
    left = subprocess.run(["bash", "--norc", "-c", shell], capture_output=True, text=True, timeout=HANGS)
    assert left.stdout == ""


def tab(project, script, line, before="", then=""):
    """What bash is offered at the end of a line, by the function that it finds for its command."""
    shell = f"""
{before}
{script}
{script}
{then}
line={shlex.quote(line)}
command=${{line%% *}}
[[ $(complete -p "${{command##*/}}") =~ -F\\ ([^ ]+) ]]
COMP_LINE=$line COMP_POINT=${{#line}}
"${{BASH_REMATCH[1]}}" "$command" "${{line##* }}" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    kept = {name: value for name, value in os.environ.items() if name != "COMP_WORDBREAKS"}
    done = subprocess.run(
        ["bash", "--norc", "-ic", shell], cwd=project, env=kept, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


EXPERIMENTS = sorted(["mine", *(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))])


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m looplab.train experiment=", EXPERIMENTS),
        ("python -m looplab.train +experiment=d", ["digits"]),
        ("python3 -m looplab.train exp", ["experiment="]),
        (".venv/bin/python -P -m looplab.train +experiment=digits optimizer=a", ["adam", "adamw"]),
        ("looplab train +experiment=digits optimizer=a", ["adam", "adamw"]),
        ("python -m looplab train +experiment=d", ["digits"]),
        ("looplab evaluate experiment=", []),
        ("scripts/train experiment=digits checkpoint.ev", ["checkpoint.every="]),
        ("python -m looplab.train experiment=mine model.", ["model._target_=", "model.units="]),
        ("python -m looplab.train +experiment=digits epochs=3 optimizer.l", ["optimizer.learning_rate="]),
        ("python -m looplab.train experiment=nothing optimizer.l", []),
        ("python mine.py experiment=", []),
        ("somewhere/train experiment=", []),  # a program of that name which is another's
    ],
)
def test_what_tab_offers(project, script, line, offered):
    assert tab(project, script, line) == offered


def test_where_equals_is_part_of_a_word_the_word_is_whole(project, script):
    offered = tab(
        project, script, "python -m looplab.train optimizer=a", then="COMP_WORDBREAKS=${COMP_WORDBREAKS//=}"
    )
    assert offered == ["optimizer=adam", "optimizer=adamw"]


def test_other_words_after_python_are_left_to_what_completed_them_before(project, script):
    assert tab(project, script, "python mi", before=OTHER) == ["what", "completed", "python", "before"]
    assert tab(project, script, "python -m looplab.train seed", before=OTHER) == ["seed="]


def test_nothing_is_run_but_the_python_that_wrote_the_script(project, script):
    """A Tab must not start what merely has the name: the line's own command, or the project's code."""
    write(project, {"scripts/train": "touch ran\n", "mine.py": "open('ran', 'w')\n" + PROJECT["mine.py"]})
    (project / "scripts/train").chmod(0o755)
    assert tab(project, script, "scripts/train experiment=mine model.u") == ["model.units="]
    assert not (project / "ran").exists()
