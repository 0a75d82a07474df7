"""Test code and scripts are not what a configuration may name, by whatever name it tries."""

import os
import shutil
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from looplab import experiment
from looplab.config import check
from looplab.config.project_code import set_aside
from looplab.errors import ConfigurationError
from tests.config.in_process import inside, say
from tests.process import PROJECT, ROOT, environment, write

HELP = """
import keras

def start(path):
    open(path, "w").write("run by a configuration")

class Starter(keras.Model):
    def __init__(self, path):
        super().__init__()
        start(path)
"""
NAMED = [  # what a configuration names, and the part of its place that the refusal names
    ("scripts.help.start", "scripts/"),
    ("scripts.inner.help.start", "scripts/"),
    ("docs.help.start", "docs/"),
    ("pkg.tests.help.start", "tests/"),
    ("pkg.test.help.Starter", "test/"),
    ("pkg.conftest.start", "conftest.py"),
    ("test_pkg.start", "test_pkg.py"),
    ("pkg.help_test.start", "help_test.py"),
    ("noxfile.start", "noxfile.py"),
    ("setup.start", "setup.py"),
    ("linked.start", "scripts/"),
    ("borrowed.start", "scripts/"),
    ("borrowed.again", "tests/"),
    ("borrowed.Starter", "tests/"),
    ("borrowed.module.start", "tests/"),
    ("borrowed.found.start", "scripts/"),
]
PLACES = """
    scripts/help scripts/inner/help docs/help pkg/tests/help pkg/test/help pkg/conftest test_pkg pkg/help_test
    noxfile setup pkg/scripts/help pkg/contest pkg/latest
"""
PACKAGES = (
    "scripts scripts/inner pkg pkg/tests pkg/test pkg/scripts"  # docs is none, and its modules are found too
)
FILES = {
    **{f"{place}.py": HELP for place in PLACES.split()},
    **{f"{folder}/__init__.py": "" for folder in PACKAGES.split()},
    "borrowed.py": (
        "import importlib.util, pathlib\n"
        "from pkg.tests import help as module\n"
        "from pkg.tests.help import Starter, start as again\n"
        "from scripts.help import start\n"
        "path = pathlib.Path(__file__).parent / 'scripts/help.py'\n"
        "spec = importlib.util.spec_from_file_location('of_another_name', path)\n"
        "found = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(found)\n"
    ),
}


@pytest.fixture
def folder(tmp_path):
    """A project that has all of these beside its own modules."""
    project = tmp_path / "tests"  # the folder of a project may have any name
    write(project, PROJECT | FILES)
    (project / "linked.py").symlink_to(project / "scripts" / "help.py")
    yield project
    assert not (tmp_path / "canary").exists(), "it was run"


def section(target, folder):
    made = {"_target_": target, "path": str(folder.parent / "canary")}
    return {"model": made} if target.endswith("Starter") else {"data": {"source": made}}


def build(composed, name, said=None):
    experiment.build(check(composed, said), None)


@pytest.mark.share(5)
@pytest.mark.parametrize(("target", "part"), NAMED, ids=[target for target, _ in NAMED])
def test_it_is_refused_by_both_phases(target, part, folder, monkeypatch):
    written = section(target, folder)
    (kind,) = written
    key = f"{'model' if kind == 'model' else 'data.source'}._target_"
    whole = OmegaConf.merge(OmegaConf.load(folder / "conf/experiment/mine.yaml"), written)
    expected = [
        f"{key}: '{target}'",
        f"is in {part}: a configuration may not name test code and scripts",
        "Move the code that you need to an",
    ]

    OmegaConf.save(whole, folder / "conf/experiment/x.yaml")
    text = (folder / "conf/experiment/x.yaml").read_text()
    (folder / "conf/experiment/x.yaml").write_text(f"# @package _global_\n{text}")
    said = say(["+experiment=x"], folder, {}, monkeypatch, build)
    assert (said.code, [words for words in expected if words not in said.text]) == (2, []), said.text

    del whole["defaults"]
    whole["optimizer"] = "sgd"
    monkeypatch.syspath_prepend(folder)
    with inside(folder), pytest.raises(ConfigurationError) as caught:  # who skips the first phase
        build(whole, "x")
    assert [words for words in expected if words not in str(caught.value)] == []


@pytest.mark.parametrize(
    "place", ["mine.py", "pkg/contest.py", "pkg/latest.py", "pkg/scripts/help.py", "tested/help.py"]
)
def test_what_only_looks_like_it_is_the_projects_own(place, folder):
    with inside(folder):
        assert set_aside(folder / place) is None


def test_a_folder_of_tests_on_the_path_stays_one(folder, monkeypatch):
    (elsewhere := folder.parent / "elsewhere").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(folder / "pkg/tests"), str(ROOT / "tests")]))
    with inside(elsewhere):
        assert "is in tests/" in set_aside(folder / "pkg" / "tests" / "help.py")
        assert "is in tests/" in set_aside(ROOT / "tests" / "process.py")


def test_in_a_clone_of_looplab_neither_its_tests_nor_its_benchmarks_nor_its_scripts_count(tmp_path):
    for name in ("tests", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    benchmarks = tmp_path / "scripts" / "benchmarks"
    with inside(benchmarks):  # where their modules have no such folder in their names
        assert "is in scripts/ of looplab" in set_aside(benchmarks / "runner.py")
    write(tmp_path, PROJECT)
    source = "{_target_: tests.process.start, cwd: ., python: ['-V']}"
    words = ["+experiment=mine", "run_dir=x", f"++data.source={source}"]
    done = subprocess.run(
        [sys.executable, "-m", "looplab.train", *words],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "data.source._target_: 'tests.process.start' is in tests/: a configuration may not name test"
        in done.stderr
    )
    assert not (tmp_path / "x").exists()
