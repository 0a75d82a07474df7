"""`python -m looplab` and the installed script `looplab`: the list of commands, and their start."""

import ast
import os
import runpy
import subprocess
import sys
import tomllib

import pytest

from looplab import __main__
from looplab.cli import commands
from tests.process import HANGS, PROJECT, ROOT, environment, forking_python, write


def run(*words, monkeypatch, capsys):
    """Returns the exit code, and what went to standard output and to standard error."""
    monkeypatch.setattr(sys, "argv", ["looplab", *words])
    code = __main__.main()
    return code, *capsys.readouterr()


def test_every_command_is_listed_with_its_own_description(monkeypatch, capsys):
    files = [*(ROOT / "looplab").glob("*.py"), *(ROOT / "looplab").glob("*/__main__.py")]
    found = {path.parent.name if path.stem == "__main__" else path.stem for path in files if starts(path)}
    assert set(commands.NAMES) == found - {"looplab"}
    code, said, _ = run(monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0 and "  evaluate    Evaluates a checkpoint on " in said
    assert run("--help", monkeypatch=monkeypatch, capsys=capsys) == (0, said, "")
    assert all(f"  {name:<10}  {commands.description(name)}\n" in said for name in commands.NAMES)


def starts(path):
    return "__name__ == '__main__'" in {
        ast.unparse(node.test) for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "no command 'trian'; the commands are train, .* Did you mean 'train'?"),
        (["looplab.chekc"], "Did you mean 'check'?"),
        (["+experiment=digits", "epochs=1"], "looplab train +experiment=digits epochs=1"),
        (["--verson"], "Did you mean '--version'?"),
    ],
)
def test_what_is_no_command_names_the_nearest_one(words, expected, monkeypatch, capsys):
    code, _, said = run(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2 and all(part in said for part in expected.split(" .* ")), said


def test_a_command_is_started_as_python_m_starts_it(monkeypatch):
    started = []
    monkeypatch.setattr(runpy, "run_module", lambda *given, **how: started.append((given, how, sys.argv)))
    monkeypatch.setattr(sys, "argv", ["looplab", "train", "--help", "train"])
    __main__.main()
    how = {"run_name": "__main__", "alter_sys": True}
    assert started == [(("looplab.train",), how, ["looplab", "--help", "train"])]


def test_the_list_imports_neither_tensorflow_nor_hydra():
    code = "import sys; from looplab.__main__ import main; main(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS)
    modules = ast.literal_eval(done.stdout.splitlines()[-1])
    assert not {"tensorflow", "keras", "hydra", "numpy", "rich"} & set(modules)


def test_the_installed_script_trains_with_the_code_of_the_working_directory(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["looplab"].split(":")
    script = tmp_path / "bin" / "looplab"  # as an installer writes it
    write(script.parent, {"looplab": f"import sys\nfrom {module} import {name}\nsys.exit({name}())\n"})
    home = tmp_path / "home"
    write(home, PROJECT)
    words = ["train", "+experiment=mine", "epochs=1", "run_dir=run", "+trainer.fail=true"]
    done = subprocess.run(
        [forking_python(), script, *words],
        cwd=home,
        env=environment(PYTHONPATH=os.fspath(ROOT)),
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 1 and "a mistake in train_step" in done.stderr, done.stderr
    assert (home / "run" / "outcome.json").exists()
