"""Several ways that train in turns, each in a process of its own, so that noise falls on all alike.

From one minute to the next, a machine that is shared is a third faster or slower. Turns of a third of a
second that follow each other meet it in much the same state.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from benchmarks.plan import Case

_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")


class Failed(Exception):
    """A process that said why it cannot go on, in one line."""


class Member:
    """A case in its process, which waits for its turns.

    Attributes:
        case: What it trains.
        turns: What they came to: each quantity, by round.
    """

    def __init__(self, case: Case, words: Sequence[str], timeout: float) -> None:
        """Starts nothing yet.

        Args:
            case: What is to be trained.
            words: More arguments of `benchmarks.measure`.
            timeout: Seconds for its start, and for each turn.
        """
        self.case, self.turns = case, dict[str, dict[int, float]]()
        self._words, self._timeout, self._held = words, timeout, ExitStack()

    def __enter__(self) -> Member:
        """Starts the process, and returns when its first epoch is done.

        Raises:
            Failed: If it comes to none.
        """
        with ExitStack() as held:
            # What looplab finds out it finds out each time: nothing is remembered by the next process.
            cache = held.enter_context(tempfile.TemporaryDirectory())
            self._said = held.enter_context(tempfile.TemporaryFile("w+"))
            self._process = held.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.measure", *self.case.words(), *self._words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                    text=True,
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "XDG_CACHE_HOME": cache},
                )
            )
            held.callback(self._process.kill)
            self._answer()
            self._held = held.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it, whatever it does."""
        self._held.close()

    def turn(self, number: int) -> None:
        """Has it train for a turn, the one of this round.

        Raises:
            Failed: If it does not.
        """
        for what, value in self._ask("go").items():
            self.turns.setdefault(what, {})[number] = value

    def finish(self) -> dict[str, Any]:
        """Has it end, and returns what there is to say beside its turns.

        Raises:
            Failed: If it does not end well.
        """
        return self._ask("stop")

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and said why
            print(word, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """Returns the next line of JSON that it prints."""
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._timeout, end)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.startswith("{"):
                    return dict(json.loads(line))
        finally:
            timer.cancel()
        if late.is_set():
            raise Failed(f"took more than {self._timeout:g} s")
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or [f"ended with {code}"]
        raise Failed(next(filter(_ERROR.match, reversed(lines)), lines[-1]))
