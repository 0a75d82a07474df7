"""looplab's commands as real processes, and what they leave behind."""

import atexit
import contextlib
import functools
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import looplab

ROOT = Path(__file__).parents[1]
HANGS = 600.0  # seconds after which a process hangs, however busy the machine is; a test has 900

# A small project of someone's own: model, trainer, data and callbacks in one module.
PROJECT = {
    "mine.py": '''
import time
import keras
import numpy as np
import looplab


class Net(keras.Model):
    def __init__(self, units=8):
        super().__init__()
        self.inner = keras.layers.Dense(units, activation="relu")
        self.outer = keras.layers.Dense(2)

    def call(self, x, training=False):
        return self.outer(self.inner(x))


class Mine(looplab.Trainer):
    def __init__(self, *args, fail=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.fail = fail

    def train_step(self, batch):
        if self.fail:
            raise RuntimeError("a mistake in train_step")
        return {**self.minimize(self.compute_loss, batch), "three": 3.0}


class Slow(looplab.Callback):
    """Sleeps for ever at one step."""

    def __init__(self, step):
        self.every, self.step = 1, step

    def on_step(self, event, controls):
        if event.step == self.step:
            print("sleeping", flush=True)
            time.sleep(3600)


@looplab.configurable
def points(rows=50, fail=False):
    if fail:
        raise KeyError("a mistake in the data")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 4)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("int64")
    return {"train": (x, y), "validation": (x[:20], y[:20])}
''',
    "conf/experiment/mine.yaml": """
# @package _global_
# two rows of points
defaults:
  - override /optimizer: sgd
epochs: 2
model: {_target_: mine.Net, units: 16}
trainer: {_target_: mine.Mine}
data:
  source: {_target_: mine.points}
  batch_size: 10
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
metrics: [accuracy]
""",
}


def write(folder, files):
    """Writes {path: text}."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text.lstrip(), encoding="utf-8")


def environment(**changes):
    """The environment of a person's shell, without what pytest's process has set for itself."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "HYDRA", "TF_"))}
    return {k: v for k, v in {**kept, **changes}.items() if v is not None}


# A `python` that asks the server to fork what it is to run, and ends as that does. Where the interpreter has
# options or variables of its own, or files are handed to it, it is the interpreter.
FORKS = """
import json, os, signal, socket, sys
address, python, known = sys.argv[1:4]
words = sys.argv[4:]
own = {k: v for k, v in os.environ.items() if k.startswith("PYTHON") and k != "PYTHONPATH"}
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
plain = own == json.loads(known) and not any(map(is_open, range(3, 64)))
if plain and words[:1] in (["-m"], ["-c"]):
    what = {{"-m": "module", "-c": "code"}[words[0]]: words[1], "words": words[2:]}
elif plain and words and words[0][0] != "-":
    what = {"file": words[0], "words": words[1:]}
else:
    os.execv(python, [python, *words])
what |= {"cwd": os.getcwd(), "environment": dict(os.environ)}
passed = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
signal.pthread_sigmask(signal.SIG_BLOCK, passed)
server = socket.socket(socket.AF_UNIX)
server.connect(address)
socket.send_fds(server, [json.dumps(what).encode()], [0, 1, 2])
answers = server.makefile()
process = int(answers.readline())
def pass_on(number, frame):
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass
for number in passed:
    signal.signal(number, pass_on)
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def forking_python():
    """Returns the path of a `python` for commands that others start: what it runs is forked."""
    address = fork_server()
    folder = Path(address).parent / "bin"
    write(folder, {"forks.py": FORKS})
    known = json.dumps({k: v for k, v in os.environ.items() if k.startswith("PYTHON") and k != "PYTHONPATH"})
    words = [sys.executable, "-IS", str(folder / "forks.py"), address, sys.executable, known]
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return str(python)


def start(
    *words,
    cwd,
    python=(),
    module="looplab.train",
    out=subprocess.PIPE,
    anew=False,
    forks=False,
    served=None,
    **changes,
):
    """Starts `python -m looplab.train` with these words; standard error goes with the output.

    Args:
        *words: Of the command line.
        cwd: Its working directory.
        python: Options of the interpreter.
        module: The command.
        out: Where the output goes.
        anew: Whether the process does all imports itself, for tests of what happens up to there. Else it is
            forked from one that has done them, unless it has options or variables of the interpreter.
        forks: Whether the processes that it starts itself with its interpreter are forked as well.
        served: Arguments of `fork_server` for a process that is forked though it has a PYTHONPATH.
        **changes: Of the environment; None takes a variable away.
    """
    if served is not None:
        places = map(Path, changes["PYTHONPATH"].split(os.pathsep))
        customize = [str(place) for place in places if (place / "sitecustomize.py").exists()]
        what = {"module": module, "words": words, "customize": customize}
        return Forked(what, cwd, environment(**changes), out, server=fork_server(**served))
    if anew or python or any(name.startswith(("PYTHON", "TF_")) for name in changes):
        command = [sys.executable, *python, "-m", module, *words]
        return subprocess.Popen(
            command, cwd=cwd, env=environment(**changes), stdout=out, stderr=subprocess.STDOUT, text=True
        )
    own = {"executable": forking_python()} if forks else {}
    return Forked({"module": module, "words": words, **own}, cwd, environment(**changes), out)


def run_python(code, *arguments, cwd=ROOT, timeout=HANGS, **changes):
    """Runs a program to its end as `python -c` does, forked; returns a `subprocess.CompletedProcess`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Forked({"code": code, "words": arguments}, cwd, environment(**changes), out, err)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read())


class Forked:
    """A command that was forked, with what tests use of a `subprocess.Popen`."""

    def __init__(self, what, cwd, environment, out, err=None, server=None):
        self.args, self.returncode, self.stdout = list(map(str, what["words"])), None, None
        self._connection, self._heard = socket.socket(socket.AF_UNIX), b""
        self._connection.connect(server or fork_server())
        with contextlib.ExitStack() as stack:
            nothing = stack.enter_context(open(os.devnull, "r+b"))
            if out is subprocess.PIPE:
                reads, writes = os.pipe()
                out = stack.enter_context(open(writes, "wb"))
                self.stdout = os.fdopen(reads, encoding="utf-8", errors="replace")
            elif out is subprocess.DEVNULL:
                out = nothing
            where = {"words": self.args, "cwd": str(cwd), "environment": environment}
            ends = [out if isinstance(out, int) else out.fileno()]
            ends.append(ends[0] if err is None else err.fileno())
            message = json.dumps({**what, **where}).encode()
            socket.send_fds(self._connection, [message], [nothing.fileno(), *ends])
        self.pid = int(self._answer(None))

    def wait(self, timeout=None):
        """Returns the exit code, once it has ended."""
        if self.returncode is None:
            self.returncode = int(self._answer(timeout))
        return self.returncode

    def poll(self):
        """Returns the exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout=None):
        """Returns what it said up to its end, and None."""
        said = []
        reader = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if not said:
            raise subprocess.TimeoutExpired(self.args, timeout)
        self.stdout.close()
        self.wait(timeout)
        return said[0], None

    def send_signal(self, number):
        """Sends a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Ends it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def _answer(self, timeout):
        """Returns the next line of the server's."""
        while b"\n" not in self._heard:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            more = self._connection.recv(100)
            assert more, "the server that forks commands is gone"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line


@functools.cache
def fork_server(python=(), path=None, light=False):
    """Starts a server of this process, and returns its address.

    Args:
        python: Options of its interpreter.
        path: A folder with the looplab that it imports; the checkout if None.
        light: Whether it leaves out TensorFlow.
    """
    folder = tempfile.TemporaryDirectory(prefix="looplab-fork-")
    address = os.path.join(folder.name, "socket")
    server = subprocess.Popen(
        [sys.executable, *python, ROOT / "tests" / "fork_server.py", address, *(["light"] if light else [])],
        cwd=folder.name,
        env=environment() if path is None else environment(PYTHONPATH=str(path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    assert server.stdout.readline() == b"ready\n"
    return address


def ended(process, timeout=HANGS):
    """Waits for the end; returns (exit code, what it said)."""
    try:
        said, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, said


def train(*words, timeout=HANGS, **options):
    """Runs `python -m looplab.train` to its end; returns (exit code, what it said)."""
    return ended(start(*words, **options), timeout)


def trained(*words, **options):
    """The same, which must succeed; returns what it said."""
    code, said = train(*words, **options)
    assert code == 0, said
    return said


def wait_for(process, condition, timeout=HANGS):
    """Waits until a condition is true while the process runs."""
    limit = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.002)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def records(run_dir):
    """What `metrics.jsonl` says, clocks left out."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]


def steps(run_dir):
    """The steps that have a checkpoint, rising."""
    return sorted(int(path.name[5:]) for path in (run_dir / "checkpoints").glob("step-*"))


def arrays(run_dir, step=None):
    """The arrays of a checkpoint, the last one if none is named."""
    step = steps(run_dir)[-1] if step is None else step
    return looplab.checkpoint.read(run_dir / "checkpoints" / f"step-{step:08d}")


def saved(run_dir):
    """What the last checkpoint holds beside variables: `values` of its manifest, and the arrays among them.

    Without the state of a stream's pipeline, which is taken by the clock: of this save or of one before. What
    came of it is in everything else.
    """
    folder = run_dir / "checkpoints" / f"step-{steps(run_dir)[-1]:08d}"
    values = read_json(folder / "manifest.json")["values"]
    values.pop("snapshot")
    among = {path: v.tolist() for path, v in arrays(run_dir).items() if path.startswith("values/")}
    return values, {path: v for path, v in among.items() if not path.startswith("values/snapshot/")}


def differing(one, other):
    """The paths at which two checkpoints' arrays are not the same bits."""
    bits = [{k: (v.shape, v.dtype, v.tobytes()) for k, v in some.items()} for some in (one, other)]
    return sorted(k for k in {*bits[0], *bits[1]} if bits[0].get(k) != bits[1].get(k))


def snapshot(folder):
    """The contents of every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def scalars(run_dir, split):
    """TensorBoard's own reading of a split: [(tag, step, value)], as it stands in the files.

    Without the tags that repeat others in the two groups that TensorBoard opens.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from looplab.loggers.tensorboard_overview import EPOCHS, STEPS

    reader = EventAccumulator(
        str(run_dir / "tensorboard" / split), size_guidance={"scalars": 0}, purge_orphaned_data=False
    )
    reader.Reload()
    tags = [tag for tag in reader.Tags()["scalars"] if not tag.startswith((EPOCHS, STEPS))]
    return sorted((tag, event.step, event.value) for tag in tags for event in reader.Scalars(tag))


def assert_same_run(run_dir, reference):
    """Nothing tells the two runs apart but their clocks."""
    assert steps(run_dir)[-1] == steps(reference)[-1]
    apart = differing(arrays(run_dir), arrays(reference))
    assert [path for path in apart if not path.startswith("values/snapshot/")] == []  # see `saved`
    assert saved(run_dir) == saved(reference)
    assert records(run_dir) == records(reference)
    for split in ("train", "validation"):
        found = scalars(run_dir, split)
        assert len({(tag, step) for tag, step, _ in found}) == len(found)
        assert found == scalars(reference, split)
    ends = [read_json(path / "outcome.json") for path in (run_dir, reference)]
    for clock in ("seconds", "wall_time", "saves"):
        assert ends[0].pop(clock) and ends[1].pop(clock)
    for end in ends:
        del end["start_up"]  # up to the first step, of which the last process may have made none
    for own in ("compilations", "compilation_seconds", "sha256"):  # of the last process, of clocks too
        for end in ends:
            del end[own]
    assert ends[0] == ends[1]
    left = [path.name for path in (run_dir / "checkpoints").iterdir() if not path.name.startswith("step-")]
    assert left == []
