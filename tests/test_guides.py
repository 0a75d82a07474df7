"""Every Python block of a guide runs, from top to bottom, in one process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import HANGS

PAGES = sorted((Path(__file__).resolve().parent.parent / "looplab" / "guide").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, tmp_path):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    assert blocks and {language for language, _ in blocks} == {"python"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(block for _, block in blocks)],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
