"""Starts commands by forking a process that has imported TensorFlow, which takes seconds in each.

A second argument, "light", leaves TensorFlow out, for commands that are to end without it.

A client connects to the socket and sends what to run, with the files for standard input, output and
error. It hears the process id, and the exit status when the process has ended. The server runs nothing of
TensorFlow and has no threads of Python: a fork is as good as a new interpreter that has done its imports.
"""

import atexit
import gc
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
import traceback
import types

_SIZE = 2**20


def preload():
    """Imports what every command does."""
    import keras
    import tensorflow as tf

    import looplab.cli
    import looplab.experiment
    import looplab.testing
    import looplab.trainer

    tf.config.list_physical_devices()
    gc.collect()
    gc.freeze()
    return keras, looplab


def preload_light():
    """Imports what every command does before it imports TensorFlow."""
    import hydra._internal.core_plugins.basic_launcher
    import hydra._internal.core_plugins.basic_sweeper
    import omegaconf._impl

    import looplab.cli.main
    import looplab.cli.startup
    import looplab.runs.agreement

    gc.collect()
    gc.freeze()
    return hydra, omegaconf, looplab


def serve(address):
    """Answers until the process that has started it is gone."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        owner = os.getppid()
        listener.settimeout(5)
        while os.getppid() == owner:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(None)
                message, ends, _, _ = socket.recv_fds(connection, _SIZE, 3)
                if os.fork() == 0:
                    listener.close()
                    _watch(connection, json.loads(message), ends)
                for end in ends:
                    os.close(end)
            _reap()


def _reap():
    """Forgets those that watched a process which has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def _watch(connection, what, ends):
    """Forks the command, and says how it ended."""
    process = os.fork()
    if process == 0:
        connection.close()
        _run(what, ends)
    for end in ends:
        os.close(end)
    connection.sendall(f"{process}\n".encode())
    _, status = os.waitpid(process, 0)
    try:
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def _run(what, ends):
    """Becomes `python -m MODULE WORDS...`, `python -c CODE WORDS...` or `python FILE WORDS...`."""
    for target, end in enumerate(ends):
        os.dup2(end, target)
        os.close(end)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(what["environment"])
    os.chdir(what["cwd"])
    file = what.get("file")
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(file)) if file else what["cwd"]
    places = what["environment"].get("PYTHONPATH", "").split(os.pathsep)
    first = 0 if sys.flags.safe_path else 1
    sys.path[first:first] = [place for place in places if place and place not in sys.path]
    sys.executable = what.get("executable", sys.executable)
    sys.argv[:] = [file or what.get("module", "-c"), *what["words"]]
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    code = _ended(what)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _ended(what):
    """Runs a module, a program or a file to its end, and returns the exit code that Python would give it."""
    try:
        for place in what.get("customize", ()):
            runpy.run_path(os.path.join(place, "sitecustomize.py"))
        if "module" in what:
            runpy.run_module(what["module"], run_name="__main__", alter_sys=True)
        elif "file" in what:
            runpy.run_path(what["file"], run_name="__main__")
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what["code"], "<string>", "exec"), vars(main))
        return 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        traceback.print_exc()
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


if __name__ == "__main__":
    preload_light() if sys.argv[2:] == ["light"] else preload()
    serve(sys.argv[1])
