"""What is shipped: the wheel, the lock, the changelog, and who imports whom."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.process import HANGS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def build(kind, source, folder):
    """Build a wheel or an sdist without network and without isolation; returns the one file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    result = subprocess.run(command, cwd=source, timeout=HANGS, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = folder.iterdir()
    return file


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return contents(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


def test_wheel_ships_package_configuration_guides_and_licence(wheel):
    version = PROJECT["project"]["version"]
    assert {"looplab/__init__.py", "looplab/py.typed", "looplab/conf/train.yaml"} <= set(wheel)
    assert f"looplab-{version}.dist-info/licenses/LICENSE" in wheel
    assert {name.split("/")[0] for name in wheel} == {"looplab", f"looplab-{version}.dist-info"}
    assert not [name for name in wheel if "__pycache__" in name]
    assert b"looplab = looplab.__main__:script" in wheel[f"looplab-{version}.dist-info/entry_points.txt"]

    def files(wing):
        return {path for path in (ROOT / wing).rglob("*") if path.suffix in (".py", ".yaml", ".md")}

    shipped = {f"looplab/{path.relative_to(ROOT)}" for path in files("conf")}
    shipped |= {str(path.relative_to(ROOT)) for path in files("looplab")}
    assert shipped <= set(wheel)
    assert {"looplab/conf/README.md", "looplab/guide/from_keras.md"} <= shipped


def test_sdist_builds_the_same_wheel(wheel, tmp_path):
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], timeout=HANGS, check=True)
    again = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    assert contents(again) == wheel


def test_the_top_of_the_repository_is_what_a_newcomer_expects():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or no clone: which files are tracked is not known")
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, timeout=HANGS, capture_output=True, text=True)
    if listed.returncode:  # a clone that belongs to someone else, say
        pytest.skip(f"git does not say which files are tracked: {listed.stderr.strip()}")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    folders = {"looplab", "conf", "tests", "scripts"}
    files = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "requirements.lock"}
    assert {name for name in top if not name.startswith(".")} == folders | files


def test_changelog_begins_with_the_version_of_the_project():
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading[1] == PROJECT["project"]["version"]


def locked():
    """The lock by package: {name: [(version, lines)]}."""
    packages = {}
    for block in re.split(r"^(?=\S)", LOCK, flags=re.MULTILINE)[1:]:
        name, version = re.match(r"(\S+)==(\S+)", block).groups()
        packages.setdefault(canonicalize_name(name), []).append((version, block))
    return packages


def test_every_locked_package_has_its_hash_and_no_address():
    for name, versions in locked().items():
        for _, block in versions:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), name
    assert "://" not in LOCK


def test_lock_satisfies_what_the_project_asks_for():
    extras = PROJECT["project"]["optional-dependencies"]
    # The lock is for work on looplab; CUDA's libraries are the user's choice.
    asked = [
        *PROJECT["project"]["dependencies"],
        *(d for e in ("data", "examples", "sweep", "trackers", "docs", "dev") for d in extras[e]),
    ]
    asked += PROJECT["build-system"]["requires"]
    packages = locked()
    for requirement in map(Requirement, asked):
        versions = packages.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in requirements.lock: make the lock again"
        assert all(version in requirement.specifier for version, _ in versions), requirement


def wings():
    return {path.stem for path in (ROOT / "looplab").iterdir()} - {"__init__"}


def facade_imports(source, package):
    """Lines that import the facade `looplab` itself, in a module of this package.

    `from looplab import strategy` is not one: it imports a wing.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            if origin == "looplab" and {name.name for name in node.names} - wings():
                yield node.lineno
        elif isinstance(node, ast.Import):
            # `import looplab.errors` binds the facade too; `... as errors` does not.
            bound = {name.name if name.asname else name.name.split(".")[0] for name in node.names}
            if "looplab" in bound:
                yield node.lineno


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import looplab", "looplab", True),
        ("import looplab as ll", "looplab", True),
        ("import looplab.errors", "looplab", True),
        ("import looplab.errors as errors", "looplab", False),
        ("import looplabs, os.path", "looplab", False),
        ("def f():\n    from looplab import Trainer", "looplab.data", True),
        ("from looplab import errors, Trainer", "looplab", True),
        ("from looplab import *", "looplab", True),
        ("from looplab import errors", "looplab", False),
        ("from looplab.errors import DataError", "looplab", False),
        ("from . import Trainer", "looplab", True),
        ("from .. import Trainer", "looplab.data", True),
        ("from . import Trainer", "looplab.data", False),
        ("from .errors import DataError", "looplab", False),
    ],
)
def test_facade_imports_are_seen(source, package, found):
    assert bool(list(facade_imports(source, package))) == found


def test_no_module_inside_imports_the_facade():
    # import-linter knows no wing called `looplab`, so it cannot say this.
    found = []
    for path in sorted((ROOT / "looplab").rglob("*.py")):
        inside = path.relative_to(ROOT)
        if inside.parts[1] == "examples" or inside == Path("looplab/__init__.py"):
            continue  # examples use the public names, as users do
        lines = facade_imports(path.read_text(), ".".join(inside.parent.parts))
        found += [f"{inside}:{line}" for line in lines]
    assert not found


def test_wings_keep_to_their_ranks():
    # The contract is exhaustive: a wing without a rank fails here.
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]
    assert (layers["type"], layers["exhaustive"]) == ("layers", True)
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, timeout=HANGS, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
