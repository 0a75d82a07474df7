"""Compares the paths and addresses among arguments with what the user allowed: files may not choose them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from looplab.config import hydra_values
from looplab.config.components import Slot
from looplab.config.environment import SHOWN, FromEnvironment, texts_in
from looplab.config.project_settings import TABLE
from looplab.config.said import Said, as_word
from looplab.errors import Problem, as_written
from looplab.options.paths import leads_out
from looplab.secret import is_secret
from looplab.targets import Limits

_PLACEHOLDER = re.compile(r"\{\w+(:\d*(\.\d+)?[defg]?)?\}")  # others could form any path, such as ".."
_REMEDY = "give it on the command line, {key}=..., or"


def limit_problems(
    limits: Limits, signature: Signature, slot: Slot, said: Said, run_dir: Path | None = None
) -> Iterator[Problem]:
    """Finds arguments that a file may not set.

    Args:
        limits: The limits of the target.
        signature: The arguments that it takes.
        slot: The slot with the arguments.
        said: The user's settings; an argument that a word sets is not checked.
        run_dir: The run directory; None if it is not known.
    """
    rest = {p.name for p in signature.parameters.values() if p.kind is Parameter.VAR_KEYWORD}
    named = set(signature.parameters) - rest
    for name, value in slot.given.items():
        key = f"{slot.key}.{name}"
        if said.has(key):
            continue
        yield from _environment(name, value, key, limits, slot)
        if name in limits.user_only or (name not in named and rest & limits.user_only):
            yield from _of_user(value, key, slot, said)
        elif name in limits.writes:
            yield from _written(value, key, run_dir)
        elif name in limits.reads and not (name == "vocabulary" and isinstance(value, list)):  # a list
            for path, where in texts_in(value, key):
                yield from _read(path, where, said)


def _environment(name: str, value: Any, key: str, limits: Limits, slot: Slot) -> Iterator[Problem]:
    """Finds values of environment variables in arguments that are shown, recorded or sent."""
    own = slot.target.split(".")[0] not in ("looplab", "keras", "tensorflow") and name != "name"
    if own or name in limits.reads or is_secret(name):
        return
    for text, where in texts_in(value, key):
        if isinstance(text, FromEnvironment):
            yield Problem(where, SHOWN)


def _of_user(value: Any, key: str, slot: Slot, said: Said) -> Iterator[Problem]:
    plain = value is None or value is False or value == ""
    if not plain and not (isinstance(value, str) and said.may_reach(value)):
        yield Problem(
            key,
            f"{as_written(value)} is in a file, but only the user may set this argument of {slot.target}. To "
            f"set it, {_REMEDY.format(key=as_word(key))} list an address under addresses in {TABLE}.",
        )


def _written(value: Any, key: str, run_dir: Path | None) -> Iterator[Problem]:
    plain = _PLACEHOLDER.sub("x", value) if isinstance(value, str) else ""
    for folder in (run_dir, hydra_values.output_dir()):  # the value of ${hydra:runtime.output_dir}
        plain = plain.removeprefix(f"{folder.absolute()}{os.sep}") if folder is not None else plain
    why = None
    if value is not None and not isinstance(value, str):
        why = f"{as_written(value)} is not a path"
    elif value is not None:
        why = leads_out(plain)
        if set("{}") & set(plain):
            why = f"{value!r} may lead out of the run directory"
    if why:
        yield Problem(
            key,
            f"{why}. Give a relative path, which is inside the run directory. For another path, "
            f"{_REMEDY.format(key=as_word(key))} give it in Python.",
        )


def _read(path: str, key: str, said: Said) -> Iterator[Problem]:
    if said.has(key) or (said.may_reach(path) if "://" in path else said.may_read(path)):
        return
    yield Problem(
        key,
        f"{_named(path)} is outside the project ({os.getcwd()}), where a file may not read. To allow it, "
        f"{_REMEDY.format(key=as_word(key))} list its folder under read in {TABLE}.",
    )


def _named(path: str) -> str:
    return "the value of an environment variable" if isinstance(path, FromEnvironment) else as_written(path)
