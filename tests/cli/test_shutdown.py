"""A command's process ends, whatever still runs in it."""

import subprocess
import sys

import pytest

from tests.process import HANGS, ROOT, environment

SCRIPT = """
import atexit, threading, time
from looplab.cli import shutdown
shutdown.PATIENCE = {patience}
atexit.register(lambda: print("cleaned up"))
def somebodys_own():
    time.sleep({seconds})
threading.Thread(target=somebodys_own).start()
print("done")
shutdown.leave(4)
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


LEAVE = "from looplab.cli import shutdown; shutdown.leave(4)"


def left(script):
    """Runs a script that begins with looplab's exit at hand, and leaves with code 4."""
    command = [sys.executable, "-c", f"from looplab.cli import shutdown\n{script}\nshutdown.leave(4)"]
    return subprocess.run(
        command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=HANGS
    )


@pytest.mark.fault(70)
@pytest.mark.parametrize(("job", "patience", "ends"), [("print", 3600, True), ("time.sleep", 0.2, False)])
def test_pools_are_told_to_end_and_not_waited_for_for_ever(job, patience, ends):
    done = left(
        f"""
import concurrent.futures, time
shutdown.PATIENCE = {patience}
concurrent.futures.ThreadPoolExecutor(1).submit({job}, 3600)"""
    )
    assert (done.returncode, done.stdout) == (4, "3600\n" if ends else "")
    assert ("a thread is still running" in done.stderr) is not ends


def test_ctrl_c_while_threads_are_waited_for_ends_the_wait():
    done = left(
        """
import atexit, os, signal, threading, time
shutdown.PATIENCE = 3600
atexit.register(lambda: print("cleaned up"))
def interrupt():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3600)
threading.Thread(target=interrupt).start()"""
    )
    assert (done.returncode, done.stdout) == (4, "cleaned up\n")


def test_a_callback_that_fails_keeps_no_other_from_running():
    done = left(
        """
import atexit
atexit.register(lambda: print("cleaned up"))
atexit.register(lambda: 1 / 0)"""
    )
    assert (done.returncode, done.stdout) == (4, "cleaned up\n")
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("collector", ["enable", "disable", "freeze"])
def test_the_interpreter_is_not_taken_apart(collector):
    """Garbage is collected in a callback too, and the process goes on to the next one."""
    done = left(
        f"""
import atexit, gc, sys
class Slow:
    def __del__(self):
        print("taken apart")
sys.somebodys = Slow()
gc.{collector}()
atexit.register(lambda: print("cleaned up"))
atexit.register(gc.collect)"""
    )
    assert (done.returncode, done.stdout) == (4, "cleaned up\n")


def test_callbacks_of_the_time_before_looplab_run_too():
    command = f"import atexit; atexit.register(lambda: print('cleaned up')); {LEAVE}"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        timeout=HANGS,
    )
    assert (done.returncode, done.stdout) == (4, b"cleaned up\n")


def test_who_catches_the_end_goes_on():
    done = left("try:\n    shutdown.leave(3)\nexcept SystemExit as end:\n    print('caught', end.code)")
    assert (done.returncode, done.stdout) == (4, "caught 3\n")
