"""The first start of scripts/train and scripts/test, as real processes in a small repository.

The small repository has the real scripts, a lock of one package that lies in a folder, and a build
backend of its own, so that an installation takes seconds and no network.
"""

import hashlib
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from tests.process import HANGS

SCRIPTS = Path(__file__).parents[2] / "scripts"
PYTHON = str(Path(sys.executable).resolve())
# All that the scripts may need of a machine: Debian's essential packages have these, and not more.
TOOLS = "awk bash cat cmp dirname find flock grep head mkdir mv readlink rm sed sort tail tee wc"
# A port where nobody listens.
NO_NETWORK = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": ""}

SAY_WHERE = """
import json, os, sys
print(json.dumps([os.getcwd(), sys.argv[1:], sys.prefix]))
"""


def write_wheel(folder, name, files):
    """The least that pip takes for a wheel."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    wheel = f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, wheel), "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return wheel


BACKEND = f"""
import os, time, zipfile
{inspect.getsource(write_wheel)}
def build_editable(folder, config_settings=None, metadata_directory=None):
    while os.path.exists("wait"):
        time.sleep(0.01)
    return write_wheel(folder, "looplab", {{"looplab.pth": os.getcwd()}})
"""


class Tree:
    """A small repository and the machine around it."""

    def __init__(self, folder, root=None):
        self.root = root or folder / "repository"
        self.machine = folder / "machine"  # its only entry on PATH
        self.wheels = folder / "wheels"
        self.env = {
            "PATH": str(self.machine),
            "HOME": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "1",
        }

    def build(self):
        for folder in (self.root / "scripts", self.root / "looplab", self.machine, self.wheels):
            folder.mkdir(parents=True)
        for script in ("bootstrap.sh", "train", "test"):
            shutil.copy(SCRIPTS / script, self.root / "scripts" / script)
        (self.root / "looplab/__init__.py").touch()
        (self.root / "looplab/train.py").write_text(SAY_WHERE)
        (self.root / "backend.py").write_text(BACKEND)
        (self.root / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "looplab"\nversion = "1.0"\n'
        )
        self.lock("pytest", SAY_WHERE)
        for tool in TOOLS.split():
            (self.machine / tool).symlink_to(shutil.which(tool))
        self.python("python3")
        return self

    def lock(self, name, source):
        """Make requirements.lock name one package, a module of this source."""
        wheel = self.wheels / write_wheel(self.wheels, name, {f"{name}.py": source})
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.root / "requirements.lock").write_text(f"{name}==1.0 \\\n    --hash=sha256:{digest}\n")

    def python(self, name, patch="", body='exec "$real" "$@"'):
        """Put a Python on PATH; `patch` runs in it before the scripts' own question to it."""
        probe = f"import sys; {patch}; exec(sys.argv[3])"
        if patch:
            body = f'[ "$2" = -c ] && exec "$real" -c \'{probe}\' "$@"\n{body}'
        script = self.machine / name
        script.write_text(f"#!/bin/sh\nreal={PYTHON}\n{body}\n")
        script.chmod(0o755)

    def popen(self, script, *arguments, cwd=None, **env):
        return subprocess.Popen(
            [self.root / "scripts" / script, *arguments],
            cwd=cwd or self.root,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A background job ignores Ctrl-C, and a shell could not trap then what it was started to ignore.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def start(self, script="train", *arguments, cwd=None, **env):
        """Returns (exit code, what the program printed, the lines of looplab)."""
        return finish(self.popen(script, *arguments, cwd=cwd, **env))

    def refused(self, code, *words, **env):
        """Start, and find one last sentence with these words."""
        returned, printed, lines = self.start(**env)
        assert (returned, printed) == (code, None), lines
        for word in words:
            assert word in lines[-1]
        assert len(lines) <= 2, "a line that says what is done, and one that says why it failed"

    @property
    def log(self):
        return self.root / ".venv/looplab-install.log"


def finish(process):
    try:
        out, err = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    lines = err.splitlines()
    assert all(line.startswith("looplab: ") for line in lines), err
    return process.returncode, json.loads(out) if out else None, lines


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path).build()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A tree after its first start; tests leave it as it is."""
    tree = Tree(tmp_path_factory.mktemp("installed")).build()
    tree.first = tree.start("train", "two words", "a=1")
    return tree


@pytest.fixture(scope="module")
def worn(tmp_path_factory):
    """A tree after its first start; tests change it, and leave one that has started."""
    tree = Tree(tmp_path_factory.mktemp("worn")).build()
    assert tree.start()[0] == 0
    return tree


@pytest.fixture
def bad_lock(worn):
    """Makes its lock name a package; it is as before after the test."""
    lock = worn.root / "requirements.lock"
    before = lock.read_text()
    yield lambda name: lock.write_text(f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    lock.write_text(before)


@pytest.fixture
def silent_index():
    """The address of a package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        called = threading.Event()

        def accept():
            kept = []
            while True:
                try:
                    kept.append(server.accept())
                except OSError:
                    return
                called.set()

        threading.Thread(target=accept, daemon=True).start()
        host, port = server.getsockname()
        yield f"http://{host}:{port}/", called
        server.shutdown(socket.SHUT_RDWR)


def test_first_start_installs_says_so_and_runs(installed):
    code, (cwd, arguments, prefix), lines = installed.first
    assert code == 0
    assert cwd == str(installed.root)
    assert arguments == ["two words", "a=1"]
    assert prefix == str(installed.root / ".venv")
    version = ".".join(map(str, sys.version_info[:3]))
    assert lines == [
        f"looplab: creating .venv with Python {version} and installing requirements.lock "
        f"(1 packages; once, about a minute; log: {installed.log}) ..."
    ]


def test_second_start_only_runs_and_keeps_the_working_directory(installed, tmp_path):
    before = installed.log.stat().st_mtime_ns
    code, (cwd, _, _), lines = installed.start("train", cwd=tmp_path)
    assert (code, cwd, lines) == (0, str(tmp_path), [])
    assert installed.log.stat().st_mtime_ns == before


def test_a_link_to_the_script_works(installed, tmp_path):
    (tmp_path / "train").symlink_to(installed.root / "scripts/train")
    result = subprocess.run(
        tmp_path / "train", cwd=tmp_path, env=installed.env, timeout=HANGS, capture_output=True
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_tests_run_at_the_root_and_named_paths_are_kept(installed, tmp_path):
    (tmp_path / "test_mine.py").touch()
    (tmp_path / "word").touch()
    code, (cwd, arguments, _), _ = installed.start(
        "test", "-x", "test_mine.py::test", "-k", "word", "tests/test_its.py", cwd=tmp_path
    )
    assert (code, cwd) == (0, str(installed.root))
    assert arguments[:4] == ["-n", "3", "--dist", "worksteal"]
    mine = str(tmp_path / "test_mine.py::test")
    assert arguments[4:] == ["-x", mine, "-k", "word", "tests/test_its.py"]


@pytest.mark.slow
def test_a_new_lock_is_installed_into_the_same_environment(worn):
    tree = worn
    made = (tree.root / ".venv/pyvenv.cfg").stat().st_ino
    tree.lock("other", SAY_WHERE)

    tree.refused(2, "could not reach the package index", **NO_NETWORK)
    code, _, lines = tree.start()
    assert (code, len(lines)) == (0, 1)
    assert "has changed: updating .venv" in lines[0]
    assert (tree.root / ".venv/pyvenv.cfg").stat().st_ino == made
    assert list((tree.root / ".venv").glob("lib/*/site-packages/other.py"))
    assert tree.start()[2] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(signal.SIGKILL, id="SIGKILL"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_an_installation_cut_short_is_begun_again(tree, silent_index, kill):
    address, called = silent_index
    process = tree.popen("train", **(NO_NETWORK | {"PIP_INDEX_URL": address}))
    assert called.wait(HANGS)
    os.killpg(process.pid, kill)
    code, _, lines = finish(process)
    if kill != signal.SIGKILL:
        assert code == 128 + kill
        assert "the next start begins the installation again" in lines[-1]

    code, printed, lines = tree.start()
    assert (code, len(lines)) == (0, 1)
    assert "creating .venv" in lines[0]
    assert printed


@pytest.mark.slow
def test_two_first_starts_at_once(tree):
    (tree.root / "wait").touch()
    processes = [tree.popen("train"), tree.popen("train")]
    waiting, creating = sorted(process.stderr.readline() for process in processes)
    assert "another start is installing into .venv" in waiting
    assert "creating .venv" in creating
    (tree.root / "wait").unlink()
    assert [finish(process)[0] for process in processes] == [0, 0]


@pytest.mark.slow
def test_an_environment_whose_python_is_gone_is_made_again(worn):
    tree = worn
    python = tree.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    code, _, lines = tree.start()
    assert code == 0
    assert "creating .venv" in lines[0]


@pytest.mark.slow
def test_a_moved_repository_makes_its_environment_again(installed, tmp_path):
    moved = Tree(installed.root.parent, root=tmp_path / "moved")
    shutil.copytree(installed.root, moved.root, symlinks=True)
    code, (_, _, prefix), lines = moved.start()
    assert (code, prefix) == (0, str(moved.root / ".venv"))
    assert "creating .venv" in lines[0]


@pytest.mark.slow
def test_an_environment_of_somebody_else_is_used_and_never_emptied(tree):
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", tree.root / ".venv"], timeout=HANGS, check=True)
    mine = tree.root / ".venv/mine"
    mine.touch()
    for change in ("", "[tool.a]"):
        with open(tree.root / "pyproject.toml", "a") as file:
            file.write(change + "\n")
        code, _, lines = tree.start()
        assert code == 0
        assert "using the .venv that is already here" in lines[0]
    (tree.root / ".venv/bin/python").unlink()
    tree.refused(2, "was not made by looplab", "move it away")
    assert mine.exists()


@pytest.mark.slow
def test_a_linked_environment_is_never_emptied(tree, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tree.root / ".venv").symlink_to(elsewhere)
    code, _, lines = tree.start()
    assert code == 0
    assert "creating .venv" in lines[0]
    (elsewhere / "looplab.stamp").unlink()
    inode = (elsewhere / "pyvenv.cfg").stat().st_ino
    assert "using the .venv that is already here" in tree.start()[2][0]
    assert (elsewhere / "pyvenv.cfg").stat().st_ino == inode


def test_no_python(tree):
    (tree.machine / "python3").unlink()
    tree.refused(2, "no python3 was found", "apt install python3 python3-venv", "LOOPLAB_PYTHON")


def test_an_unsupported_python(tree):
    tree.python("python3", patch='sys.version_info = (3, 9, 2, "final", 0)')
    tree.refused(2, "python3 is Python 3.9.2", "needs 3.11, 3.12 or 3.13", "LOOPLAB_PYTHON")


def test_a_named_python_that_does_not_run(tree):
    tree.refused(2, "/no/such python does not run", LOOPLAB_PYTHON="/no/such python")


def test_a_python_without_venv(tree):
    tree.python("python3", patch='sys.modules["ensurepip"] = None')
    tree.refused(2, "no venv and ensurepip modules", "apt install python3-venv")


@pytest.mark.slow
def test_the_newest_supported_python_that_runs(tree):
    tree.python("python3", patch='sys.version_info = (3, 14, 0, "final", 0)')
    tree.python("python3.13", body="echo 'pyenv: python3.13: command not found' >&2; exit 127")
    tree.python("python3.12", patch='sys.version_info = (3, 12, 7, "final", 0)')
    tree.python("python3.11", body="exit 1")
    code, _, lines = tree.start()
    assert code == 0
    assert "creating .venv with Python 3.12.7" in lines[0]


def test_no_network(tree):
    tree.refused(2, "could not reach the package index", "HTTPS_PROXY", str(tree.log), **NO_NETWORK)


@pytest.mark.slow
def test_a_package_that_is_not_the_locked_one(worn, bad_lock):
    worn.lock("another", SAY_WHERE)  # the index has it, and it is not installed
    bad_lock("another")
    worn.refused(2, "not the one that requirements.lock names", str(worn.log))


@pytest.mark.slow
def test_a_package_that_the_index_lacks(worn, bad_lock):
    bad_lock("absent")
    worn.refused(2, "pip failed", "No matching distribution found for absent==1.0", str(worn.log))


def test_a_full_disk(tree):
    full = "OSError: [Errno 28] No space left on device"
    tree.python("python3", body=f'[ "$3" = venv ] && {{ echo "{full}"; exit 1; }}\nexec "$real" "$@"')
    tree.refused(6, "the disk is full", "make room", str(tree.root / ".venv"))


def test_an_environment_that_cannot_be_written(tree):
    (tree.root / ".venv").write_text("not a folder")
    tree.refused(6, "cannot write to", "make room or give the right")
