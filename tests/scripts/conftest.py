"""The package of scripts/benchmark is found as that script finds it: scripts/ is on the path."""

import os
import sys

import pytest

from tests.process import ROOT

SCRIPTS = str(ROOT / "scripts")
sys.path.append(SCRIPTS)  # last: no module in scripts/ stands before another one


@pytest.fixture
def scripts_on_path(monkeypatch):
    """The processes that the package starts find it too."""
    monkeypatch.setenv("PYTHONPATH", SCRIPTS, prepend=os.pathsep)
