"""`python -m looplab.train +experiment=NAME [group=option] [key=value] ...`."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from looplab import config as configuration
from looplab.errors import ConfigurationError, LooplabError, nearest

_BARE = re.compile(r"[\w\s/.?|@%+*:$-]*", re.ASCII)  # what Hydra's grammar takes without quotes
_SYNTAX = re.compile(r"['\"\\,]|\$\{|^[\[{]|^\w+\(")  # what has a meaning there
_INSIDE = re.compile(r"[/\\](tensorflow|hydra)[/\\]|__autograph_generated")


class WorkingDirectory(SearchPathPlugin):
    """Makes Hydra look into the working directory's `conf/` before the one that looplab ships."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Puts `./conf` first, if there is one."""
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != configuration.directory().resolve():
            search_path.prepend("working directory", f"file://{own}")


def main() -> int:
    """Composes, checks and trains.

    Returns:
        The exit code: 0 done, 1 an error in user code, 2 configuration, 130 interrupted.
    """
    sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)
    whole = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors come here, not to sys.exit
    sys.argv[1:] = [_understood(word) for word in sys.argv[1:]]
    sys.path.insert(0, str(Path.cwd()))  # research code beside its own conf/
    Plugins.instance().register(WorkingDirectory)
    command = hydra.main(version_base="1.3", config_path=str(configuration.directory()), config_name="train")
    codes: list[int] = []

    def task(composed: DictConfig) -> None:
        # Nothing goes past Hydra, which would add its own lines. Ctrl-C ends a whole sweep.
        if 130 not in codes:
            codes.append(_exit_code(lambda: _train(composed), whole))

    def compose_and_run() -> None:
        try:
            command(task)()
        except Exception as error:  # what the task raises stays in the task
            raise ConfigurationError(_composition_error(error)) from None

    return _exit_code(compose_and_run, whole) or next(filter(None, codes), 0)


def _train(composed: DictConfig) -> None:
    experiment = HydraConfig.get().runtime.choices.get("experiment")
    if experiment is None and composed.get("epochs") is None and composed.get("steps") is None:
        there_are = ", ".join(GlobalHydra.instance().config_loader().get_group_options("experiment"))
        raise ConfigurationError(f"no experiment: give +experiment=NAME, one of {there_are}; or see --help.")
    checked = configuration.check(composed)
    run_dir = configuration.run_directory(checked, str(experiment or "train").replace("/", "_"))
    with _quietly():
        import tensorflow as tf

        tf.config.list_physical_devices()
    from looplab import experiment as experiments

    experiments.run(checked, run_dir)


def _understood(word: str) -> str:
    """Returns a word of the command line as Hydra wants it.

    `experiment=x` adds to a defaults list without it, as `+experiment=x` does; a value that Hydra's
    grammar takes in quotes only gets them, such as a path with an umlaut or a bracket.
    """
    if word.startswith("experiment="):
        word = f"+{word}"
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-") or _BARE.fullmatch(value) or _SYNTAX.search(value):
        return word
    return f"{key}='{value}'"


def _exit_code(act: Callable[[], None], whole: bool) -> int:
    """Returns the exit code that the end of an action means, and says why if it is not 0."""
    try:
        act()
    except LooplabError as error:
        print(f"looplab: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("looplab: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        _print_traceback(error, whole)
        return 1
    return 0


def _composition_error(error: Exception) -> str:
    """Says what Hydra refuses: what was given, what is valid, and what is nearest to it."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, given = error.missing_cfg_file.rpartition("/")
        places = [path for path in re.findall(r"path=file://(.*)", str(error))]
        return (
            f"{group}: there is no option {given!r}; there are {', '.join(error.options)}."
            f"{nearest(given, error.options)} (looked in {', '.join(places)})"
        )
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        key = str(cause.full_key)
        add = f" To add it all the same: +{key}=..." if configuration.is_free(key) else ""
        return configuration.unknown_key(cause) + add
    message = str(error).strip()
    twice = re.match(r"Multiple values for (\S+)\.|.*\bAn item is already at '(.+?)'", message)
    if twice:
        key = twice[1] or twice[2]
        return f"{key}: it has a value already; write {key}=... once, without a plus, to change it."
    if type(error).__module__.startswith(("hydra", "omegaconf", "yaml")):
        return message
    return f"{message} (in the words: {' '.join(sys.argv[1:])})"


def _print_traceback(error: Exception, whole: bool) -> None:
    """Prints a traceback without the frames inside TensorFlow and Hydra, unless all are wanted."""
    summary = traceback.TracebackException.from_exception(error)
    hidden, parts = 0, [summary]
    while parts and not whole:
        part = parts.pop()
        shown = [frame for frame in part.stack if not _INSIDE.search(frame.filename)]
        hidden += len(part.stack) - len(shown)
        part.stack = traceback.StackSummary.from_list(shown)
        parts += [inner for inner in (part.__cause__, part.__context__) if inner is not None]
    print("".join(summary.format()), end="", file=sys.stderr)
    if hidden:
        hint = f"({hidden} frames inside TensorFlow are left out; HYDRA_FULL_ERROR=1 shows all)"
        print(hint, file=sys.stderr)


class _Lasting:
    """Standard output or error that outlives its reader: `| head`, a closed terminal, a full disk.

    A run does not end because nobody takes what it says; `log.txt` has it too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return act()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what native libraries print while they load from the terminal, unless they fail.

    TensorFlow greets every process with lines that no log level turns off. Whoever sets
    `TF_CPP_MIN_LOG_LEVEL` wants to see them.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            said.seek(0)
            os.write(2, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
