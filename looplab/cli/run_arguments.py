"""Reads the arguments of commands on an existing run: its directory, a checkpoint, each command's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from looplab.cli.commands import description
from looplab.errors import Problem, Refused
from looplab.options.paths import not_local

_COMMON = {
    "run_dir": "the directory of the run, started by looplab.train",
    "checkpoint": "best (the default), last, or a step",
}
_REST = """
Every other argument changes the run's configuration, as for looplab.train: data=other, data.batch_size=256,
metrics=[accuracy], strategy=simulated strategy.replicas=2. The command writes nothing into the run directory,
and the run may still be training. All keys: python -m looplab.train --help"""


@dataclass
class RunWords:
    """The arguments of a command on a run, without the changes to its configuration.

    Attributes:
        command: The name of the command, such as `evaluate`.
        own: The command's own words, beside `run_dir` and `checkpoint`, with their meanings.
        values: The given values, after `read` was called.
    """

    command: str
    own: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)

    def read(self, given: Sequence[str]) -> tuple[list[str], Path] | None:
        """Takes the command's own words from the given ones; prints the help for `--help`.

        Args:
            given: The words of the command line.

        Returns:
            The other words, and the run directory; None if only help was requested.

        Raises:
            Refused: If words are missing, or have no meaning here.
        """
        if {"--help", "-h"} & set(given):
            print(self._help())
            return None
        known = {**_COMMON, **self.own}
        rest = []
        for word in given:
            name, equals, value = word.lstrip("+").partition("=")
            if equals and name in known:
                self.values[name] = value.strip("'\"")
            else:
                rest.append(word)
        self._refuse(rest)
        return rest, Path(self.values["run_dir"]).expanduser()

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return Path(self.values["run_dir"]).expanduser()

    @property
    def checkpoint(self) -> str | int:
        """`"best"`, `"last"`, a step, or another word, which `Store.find` refuses."""
        word = self.values.get("checkpoint", "best")
        return int(word) if word.isdecimal() else word

    def is_true(self, name: str) -> bool:
        """Returns whether a word that takes true or false is true."""
        value = self.values.get(name, "false").lower()
        if value not in ("true", "false"):
            raise _wrong(name, f"expected true or false, got {value!r}.")
        return value == "true"

    def _refuse(self, rest: Sequence[str]) -> None:
        problems = []
        if not self.values.get("run_dir"):
            message = f"name the run: python -m looplab.{self.command} run_dir=DIR; or see --help."
            problems.append(Problem("run_dir", message))
        for name in ("run_dir", "checkpoint", "output"):
            value = self.values.get(name, "")
            if why := not_local(value):
                problems.append(Problem(name, why, f"on the command line: {name}={value}"))
        for word in rest:
            name = word.lstrip("+~").partition("=")[0]
            if word in ("-m", "--multirun") or name in ("sweep", "hydra.mode"):
                problems.append(Problem(name, f"{self.command} works on one run; it has no sweeps."))
            if name in ("from_run", "experiment", "resume", "allow_change"):
                message = f"{self.command} uses the configuration of the run; give only the keys that change."
                problems.append(Problem(name, message, f"on the command line: {word}"))
        if problems:
            raise Refused(problems)

    def _help(self) -> str:
        known = {**_COMMON, **self.own}
        required = [name for name in known if not known[name].startswith(("best", "optional"))]
        usage = " ".join(f"{n}=..." if n in required else f"[{n}=...]" for n in known)
        lines = [f"  {name:<12}{text.removeprefix('optional: ')}" for name, text in known.items()]
        return "\n".join(
            [
                f"python -m looplab.{self.command} {usage} [key=value] ...",
                "",
                description(self.command),
                "",
                *lines,
                _REST,
            ]
        )


def _wrong(name: str, message: str) -> Refused:
    return Refused([Problem(name, message, f"on the command line: {name}=...")])
