"""`looplab COMMAND ...` and `python -m looplab COMMAND ...`: list the commands, and start one of them."""

from __future__ import annotations

import os
import runpy
import sys

from looplab.cli.commands import NAMES, description
from looplab.errors import ConfigurationError, nearest, shown


def main() -> int:
    """Starts the command that the first argument names, like `python -m looplab.COMMAND`.

    Returns:
        The exit code, if no command was started: 0 after the list of commands or the version, 2 if there is
        no such command.

    Raises:
        SystemExit: At the end of a command, with its exit code.
    """
    given = sys.argv[1:]
    if not given or given[0] in ("--help", "-h"):
        print(_help())
        return 0
    if given == ["--version"]:
        print(f"looplab {sys.modules['looplab'].__version__}")
        return 0
    if given[0] not in NAMES:
        print(f"looplab: {shown(_unknown(given))}", file=sys.stderr)
        return ConfigurationError.exit_code
    del sys.argv[1]
    runpy.run_module(f"looplab.{given[0]}", run_name="__main__", alter_sys=True)
    return 0


def script() -> int:
    """Runs the installed script `looplab`.

    Returns:
        The exit code; see `main`.
    """
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()  # as with `python -m`, instead of the folder of the script
    return main()


def _help() -> str:
    width = max(map(len, NAMES))
    lines = [f"  {name:<{width}}  {description(name)}" for name in NAMES]
    return "\n".join(
        [
            "looplab COMMAND ...    (or: python -m looplab COMMAND ...)",
            "",
            *lines,
            "",
            "looplab COMMAND --help lists the arguments of a command. looplab --version prints the version.",
            "looplab COMMAND and python -m looplab.COMMAND are the same command.",
        ]
    )


def _unknown(given: list[str]) -> str:
    word = given[0]
    if word.startswith("-"):
        return f"unknown option {word!r}.{nearest(word, ['--help', '--version'])} See looplab --help."
    if "=" in word:  # an override: the name of the command is missing
        return f"expected a command before {word!r}: looplab train {' '.join(given)}. See looplab --help."
    hint = nearest(word.removeprefix("looplab."), NAMES)
    return f"there is no command {word!r}; the commands are {', '.join(NAMES)}.{hint} See looplab --help."


if __name__ == "__main__":
    sys.exit(main())
