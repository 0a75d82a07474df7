"""A command's process ends, whatever still runs in it."""

import subprocess
import sys

import pytest

from tests.process import HANGS, ROOT, environment

SCRIPT = """
import atexit, threading, time
from looplab.cli import exit
exit.PATIENCE = {patience}
atexit.register(lambda: print("cleaned up"))
def somebodys_own():
    time.sleep({seconds})
threading.Thread(target=somebodys_own).start()
print("done")
exit.leave(4)
"""


@pytest.mark.fault(70)
@pytest.mark.parametrize(("seconds", "patience", "ends"), [(0.2, 3600, True), (3600, 0.2, False)])
def test_threads_are_waited_for_and_not_for_ever(seconds, patience, ends):
    command = [sys.executable, "-c", SCRIPT.format(seconds=seconds, patience=patience)]
    done = subprocess.run(
        command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 4
    assert done.stdout == ("done\ncleaned up\n" if ends else "done\n")
    assert ("in somebodys_own" in done.stderr) is not ends
