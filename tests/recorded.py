"""A run that the command made, and commands upon it, in this process: TensorFlow is there already."""

import contextlib
import io
import os
import sys

from looplab import train
from tests.config.in_process import inside
from tests.process import PROJECT, write

OTHER = {
    "conf/data/other.yaml": """
# points that no run was trained on
source: {_target_: other.points}
batch_size: 3
""",
    "other.py": """
import numpy as np

import looplab


@looplab.configurable
def points():
    x = np.linspace(-1, 1, 44, dtype="float32").reshape(11, 4)
    y = np.arange(11) % 2
    return {"train": (x, y), "validation": (x[:7], y[:7])}
""",
}


@contextlib.contextmanager
def at_home(folder):
    """Makes a project the working directory, its modules importable, as they are in a script of its own."""
    with inside(folder):
        sys.path.insert(0, str(folder))
        yield


def act(main, *words, cwd):
    """Runs a command with these words; returns (exit code, what it said)."""
    said, environment, argv = io.StringIO(), dict(os.environ), sys.argv
    for name in [name for name in os.environ if name.startswith("HYDRA")]:
        del os.environ[name]
    sys.argv = ["looplab", *words]
    try:
        with inside(cwd), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main()
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
    return code, said.getvalue()


def make_run(folder):
    """A project of someone's own, and in `runs/mine` three epochs of five steps."""
    write(folder, {**PROJECT, **OTHER})
    words = ["+experiment=mine", "+data.source.rows=50", "run_dir=runs/mine", "epochs=3", "loggers.verbose=0"]
    code, said = act(train.main, *words, cwd=folder)
    assert code == 0, said
    return folder
