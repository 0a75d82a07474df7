"""Every block of every guide runs, page by page, from top to bottom, as a reader would run it.

A block that begins with a comment that names a path is a file and is written first. Python blocks that follow
each other run in one process, commands are forked; `text` is for drawings and for what is printed.
"""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import HANGS, forking_python, run_python

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("looplab/**/README.md"),
        *ROOT.glob("looplab/guide/*.md"),
        *ROOT.glob("conf/README.md"),
        *ROOT.glob("scripts/benchmarks/README.md"),
    ]
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
FILE = re.compile(r"(?:# @package.*\n)?# ([\w./-]+\.(?:py|toml|yaml))\b")


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    """Yields (language, text) of the fenced blocks of a page."""
    return BLOCK.findall(page.read_text("utf-8"))


def commands(page, folder):
    """Writes the files of a page into a folder; returns the commands of its other blocks, in order."""
    running = []
    for language, block in blocks(page):
        if named := FILE.match(block):
            assert language in ("python", "toml", "yaml")
            (folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / named[1]).write_text(block, encoding="utf-8")
        elif language != "text":
            assert language in ("python", "bash"), f"a {language} block needs a path in its first line"
            running.append((language, block))
    for language, joined in itertools.groupby(running, key=lambda each: each[0]):
        texts = [text for _, text in joined]
        if language == "python":
            yield [sys.executable, "-c", "\n".join(texts)]
        else:
            yield from (["bash", "-ec", text] for text in texts)


@pytest.mark.share(3)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run(page, tmp_path):
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    places = [Path(forking_python()).parent, Path(sys.executable).parent, os.environ["PATH"]]
    changes = {"CUDA_VISIBLE_DEVICES": "-1", "PATH": os.pathsep.join(map(str, places))}
    for program, *rest in commands(page, tmp_path):
        if program == sys.executable:
            done = run_python(rest[-1], cwd=tmp_path, **changes)
        else:
            done = subprocess.run(
                [program, *rest],
                cwd=tmp_path,
                env={**os.environ, **changes},
                capture_output=True,
                text=True,
                timeout=HANGS,
                stdin=subprocess.DEVNULL,
            )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_link_leads_somewhere():
    for page in [ROOT / "README.md", *PAGES]:
        prose = BLOCK.sub("", page.read_text("utf-8"))
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{name_of(page)}: {target}"
