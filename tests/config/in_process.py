"""The command in this process: what it says of a configuration before anything is imported."""

import contextlib
import importlib
import io
import os
import sys
from dataclasses import dataclass

from looplab.cli import main
from tests.process import write


@dataclass(frozen=True)
class Said:
    """What a command said on standard error, and its exit code."""

    code: int
    text: str

    @property
    def problems(self):
        """Every problem as (key and message, where it was written)."""
        found, lines = [], self.text.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("looplab: ") and not line.endswith("problems; nothing was started"):
                found.append(
                    (line.removeprefix("looplab: "), after.strip() if after.startswith("    ") else "")
                )
        return found


def task(composed, experiment, said):
    """Stands for training, which none of these configurations may reach."""
    raise AssertionError("the task was called")


@contextlib.contextmanager
def inside(folder):
    """Makes a folder the working directory, as the command finds it; forgets its modules afterwards."""
    before, path, loaded = os.getcwd(), list(sys.path), set(sys.modules)
    os.chdir(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - loaded:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def say(words, folder, files, monkeypatch, task=task):
    """Runs the command with these words in a folder with these files."""
    write(folder, files)
    for name in [name for name in os.environ if name.startswith(("HYDRA", "TF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # so that the command's own change of it is undone
    monkeypatch.setattr(sys, "argv", ["train", *words])
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    heard = sys.stderr
    with inside(folder):
        code = main.run(task)
    return Said(code, heard.getvalue())
