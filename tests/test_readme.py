"""Every block of the README runs, from top to bottom, in one directory, as a reader would run it.

A block that begins with a comment that names a path is a file; `text` is for drawings.
"""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import HANGS, records

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
FILE = re.compile(r"(?:# @package.*\n)?# ([\w./-]+\.(?:py|toml|yaml))\b")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A working directory with the repository's scripts, and the venv's python first on the path."""
    path = tmp_path_factory.mktemp("reader")
    (path / "scripts").symlink_to(ROOT / "scripts")
    for language, block in BLOCKS:
        if named := FILE.match(block):
            assert language in ("python", "toml", "yaml")
            (path / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (path / named[1]).write_text(block, encoding="utf-8")
    return path


def title(number):
    language, block = BLOCKS[number]
    return f"{number}-{language}-{block.splitlines()[-1][:40]}"


def processor_seconds():
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=title)
def test_block(number, directory):
    language, block = BLOCKS[number]
    if FILE.match(block) or language == "text":
        return  # written already; a drawing
    assert language in ("python", "bash"), f"a {language} block needs a path in its first line"
    command = [sys.executable, "-c", block] if language == "python" else ["bash", "-ec", block]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # `scripts/test` inside a test: it starts, collects, and does not run itself again.
        "PYTEST_ADDOPTS": "--collect-only -q -n 0",
    }
    before = processor_seconds()
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGS,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if number == 0:
        (run_dir,) = (directory / "runs").glob("digits/*")
        last = [r for r in records(run_dir) if r["split"] == "validation"][-1]
        assert last["step"] == 40 * 23 and last["values"]["epoch_accuracy"] > 0.985
        assert processor_seconds() - before < 120
    if block.startswith("! "):  # the block after it is what it says
        shown = re.sub(r"\(looked in .*?\)", "(looked in ...)", done.stderr)
        assert shown == BLOCKS[number + 1][1]
    if "says that nothing is left" in block:
        assert "nothing is left to do" in done.stdout
    if "--cfg job" in block:
        assert "_target_: mine.network" in done.stdout


def test_pictures_exist_and_wings_are_listed():
    text = (ROOT / "README.md").read_text("utf-8")
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (ROOT / picture).stat().st_size < 400_000
    drawn = text.split("reading order")[1]
    for part in (ROOT / "looplab").iterdir():
        name = part.stem
        if part.suffix == ".py" or (part / "__init__.py").exists():
            assert name.startswith("_") or re.search(rf"\b{name}\b", drawn), f"{name} is not drawn"
