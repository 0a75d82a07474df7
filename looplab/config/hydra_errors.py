"""Converts Hydra's errors to looplab's form: the key, the valid names, and the place in the file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from looplab.config import paths as shipped
from looplab.config import validation
from looplab.config.schema import Config
from looplab.config.source_locations import from_word, shown
from looplab.errors import Problem, nearest

_UNLIKE = re.compile("Cannot merge (DictConfig with ListConfig|ListConfig with DictConfig)")
_ALIKE = (
    "a list and named sections cannot be merged. For callbacks and loggers.more write both in the same form; "
    "'- override /callbacks: none' removes those of a group."
)
_EXTRAS = (("hydra/launcher", "joblib"), ("hydra/sweeper", "optuna"))


def options(group: str) -> list[str]:
    """Returns the options of a group, in the working directory's `conf/` and in the shipped one.

    A group such as `experiment/../../..` has none: its folder may be the whole disk.
    """
    inside = {(folder.resolve(), (folder / group).resolve()) for folder in shipped.folders()}
    folders = {folder for top, folder in inside if folder.is_relative_to(top)}
    files = ((folder, path) for folder in folders for path in folder.rglob("*.yaml"))
    return sorted({str(path.relative_to(folder).with_suffix("")) for folder, path in files})


def explained(error: Exception, words: list[str]) -> tuple[Problem, str | None]:
    """Returns Hydra's error as a problem, and the word that caused it, or None if no word did."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    said = str(error).strip()
    if isinstance(error, OverrideParseException):
        return _unparsable(error), error.override if error.override in words else None
    if inside := re.search(r"(?m)^\s+full_key: (hydra\.\S+)", said):
        lines = [line for line in said.splitlines() if not line.startswith("In '")]
        message = lines[0].rstrip(".")
        return _about(
            Problem(inside[1], f"cannot be set: {message}.", _line("hydra", inside[1])),
            _word_of(inside[1], words),
        )
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        return _no_option(error, words)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        key = str(cause.full_key)
        parent = cause.parent_node
        valid = [str(name) for name in parent if name != "hydra"] if isinstance(parent, DictConfig) else []
        if "." not in key:
            valid = list(validation.keys_of(Config))
        problem = validation.unknown(key, key.split(".")[-1], [name for name in valid if name != "_target_"])
        word = _word_of(key, words) or _word_around(key, words)
        return _about(problem, word, _how_to_add(key, word))
    if twice := re.search(
        r"(?:Multiple values for |An item is already at '|^)([\w/.]+?)(?:\. |'|"
        r" appears more than once)",
        said,
    ):
        key = twice[1]
        word = _word_of(key, words, "+")
        how = f"write {key}=... once, without a plus," if word else f"write '- override /{key}: ...'"
        where = "" if word else _entry(rf"/?{re.escape(key)}(@\S+)?:")
        return _about(Problem(key, f"it already has a value; {how} to change it.", where), word)
    if forced := re.search(r"force-add of config groups is not supported: '\+\+(([^=']+).*)'", said):
        problem = Problem(forced[2], f"choose the option of a group with {forced[2]}=OPTION, without a plus.")
        return _about(problem, f"++{forced[1]}")
    if absent := re.search(r"Could not (?:override|delete(?: from config\.)?) '([^']+)'", said):
        return _absent(absent[1].split("@")[0], words, said)
    if (merging := re.match(r"Error merging override (.+)", said)) and merging[1] in words:
        key, _, value = merging[1].lstrip("+").partition("=")
        annotation = validation.keys_of(Config).get(key)
        if _UNLIKE.search(str(cause)) and key in ("callbacks", "loggers", "loggers.more"):
            return _about(Problem(key, _ALIKE), merging[1])
        if annotation is not None and not isinstance(annotation, type):
            kind, _ = validation.kind_of(annotation)
            return _about(Problem(key, f"expected {kind.describe()}, got {value}."), merging[1])
        reason = str(cause or "").splitlines()[:1]
        return _about(Problem(key, f"cannot be set: {' '.join(reason)}"), merging[1])
    if "Config group override must be a string" in said:  # this message does not name the group
        for word in words:
            group, _, value = word.lstrip("+").partition("=")
            if group in ("", "hydra") or group.startswith("@"):
                return _about(Problem(word, "expected key=value."), word)
            if (there := options(group)) and value not in there:
                return _about(
                    Problem(group, f"{value} is not an option; valid are {', '.join(there)}."), word
                )
    if "can only concatenate str" in said:  # this message does not name the place
        mixed = next((word for word in words if re.match(r"\+*[\w/]+=\[.*\{", word)), None)
        key = (mixed or "").lstrip("+").partition("=")[0]
        message = (
            "a list may name options of the group, or hold sections with _target_ (callbacks), but not both."
        )
        return _about(Problem(key, message), mixed)
    sweep = re.search(r"(?:argument|parameters) '(.+?)'", said)
    if sweep and sweep[1] in words:
        key = sweep[1].partition("=")[0].lstrip("+")
        message = "several values: add --multirun to try each; write a list as [1,2] and a string as '1,2'."
        return _about(Problem(key, message), sweep[1])
    problem = _other(error)
    chosen = [word for word in words if word.startswith(("+experiment=", "from_run=", "++from_run="))]
    return replace(problem, where=problem.where or "".join(map(from_word, chosen[-1:]))), None


def _about(problem: Problem, word: str | None, remedy: str = "") -> tuple[Problem, str | None]:
    where = from_word(word) if word else problem.where
    message = f"{problem.message} {remedy}" if remedy and _is_free(problem.key) else problem.message
    return Problem(problem.key, message, where), word


def _how_to_add(key: str, word: str | None) -> str:
    """Says how to add a key that there is not, also by a word that gives a dict of several."""
    name, _, value = (word or "").partition("=")
    if name == key or not value.startswith("{"):
        return f"To add it anyway: +{key}=..."
    return (
        f"A dict on the command line is merged with that of the files: +{name}={{...}} adds keys to it, and "
        f"~{name} '+{name}={{...}}' replaces it."
    )


def _unparsable(error: OverrideParseException) -> Problem:
    word = error.override
    where = from_word(word)
    key, equals, _ = word.partition("=")
    if not equals and not word.startswith("~"):
        known = [f"experiment={name}" for name in options("experiment")]
        known += [f"{name}=..." for name in validation.keys_of(Config)]
        return Problem(word, f"expected key=value.{nearest(re.split(r'[ :]', word)[0], known, 0.4)}", where)
    if not re.fullmatch(r"[+~]{0,2}[A-Za-z_$][\w$./@:-]*", key, re.ASCII):
        known = list(validation.keys_of(Config))
        return Problem(key, f"{key!r} is not a key; expected key=value.{nearest(key, known)}", where)
    reason = error.message.splitlines()[0]
    if reason.startswith(("Lexer", "Error parsing")):
        reason = "a quote or a bracket is not closed, or a character has a special meaning"
    return Problem(
        key.lstrip("+~"),
        f"the value cannot be read: {reason}. Quote it: key=\"'...'\"; null, [] and {{}} are empty values.",
        where,
    )


def _absent(key: str, words: list[str], said: str) -> tuple[Problem, str | None]:
    """Returns the problem that a key to override or delete does not exist."""
    word = _word_of(key, words)
    if not key and "~" in words:
        return _about(Problem("~", "expected ~key."), "~")
    if word is None:  # in a defaults list; without the slash it is not relative to the root
        group = re.sub(r"^experiment/", "", key)
        entry = _entry(rf"override\s+/?{re.escape(group)}(@\S+)?:", _files_in(said))
        known = [f"override /{name}" for name in _groups()]
        message = f"the defaults list has no such group; valid groups are {', '.join(_groups())}."
        return Problem(group, message + nearest(f"override /{group}", known, 0.8), entry), None
    if key in _groups():
        remedy = f"The configuration of a run has no groups: give its keys, such as {key}.name=value."
        return _about(Problem(key, f"there is no such group here. {remedy}"), word)
    section, _, name = key.rpartition(".")
    annotation = validation.keys_of(Config).get(section)
    known = [name for name in validation.keys_of(annotation if isinstance(annotation, type) else Config)]
    if name in known:
        return _about(Problem(key, "it is already null and cannot be removed."), word)
    if section == "data.class_weight":
        remedy = f"~{section} '+{section}={{...}}'"
        message = f"a single class cannot be removed: give the dict of those that stay, {remedy}."
        return _about(Problem(key, message), word)
    message = "there is no such key to remove."
    return _about(Problem(key, message + nearest(name, known)), word)


def _files_in(said: str) -> list[str]:
    """Returns the file that a message of Hydra names, if it is a user's file."""
    inside = re.search(r"In '([\w/.-]+)'", said)
    path = Path.cwd() / "conf" / f"{inside[1]}.yaml" if inside else None
    return [str(path)] if path is not None and path.is_file() else []


def _groups() -> list[str]:
    return sorted(path.name for path in shipped.directory().iterdir() if path.is_dir())


def _no_option(error: MissingConfigException, words: list[str]) -> tuple[Problem, str | None]:
    group, _, given = str(error.missing_cfg_file).rpartition("/")
    if given in os.environ.values():
        return Problem(group, "the value of an environment variable is not an option of this group."), None
    if group.endswith("override "):  # '- override /optimizer' without an option
        remedy = f"write '- override /{given}: OPTION'."
        return Problem(
            given, f"the defaults list names no option: {remedy}", _entry(rf"override\s+/?{given}\s*(#.*)?$")
        ), None
    there = options(group) or list(error.options or ())
    places = [path for path in re.findall(r"path=file://(.*)", str(error))]
    if (group, given) in _EXTRAS:
        message = f"{given} needs the extra 'sweep': pip install 'looplab[sweep]'."
        word = next((w for w in words if w == f"{group}={given}" or w.startswith("+sweep=")), None)
        return _about(Problem(group, message), word)
    message = (
        f"there is no option {given!r}; there are {', '.join(there)}."
        f"{nearest(given, there)} (looked in {', '.join(places)})"
    )
    named = str(error.missing_cfg_file)
    word = next((w for w in words if "=" in w and w.lstrip("+").replace("=", "/", 1) == named), None)
    if word is not None:
        group, _, given = word.lstrip("+").partition("=")
        message = message.replace(f"{named.rpartition('/')[2]!r}", repr(given), 1)
    else:
        named = rf"(override\s+)?/?{re.escape(group)}(@\S+)?:\s*['\"]?{re.escape(given)}\b"
        where = _entry(rf"({named}|/?({re.escape(group)}/)?{re.escape(given)}\s*(#.*)?$)", places)
        return Problem(group, message, where), None
    return Problem(group, message, from_word(word)), word


def _entry(pattern: str, places: Sequence[str] = ()) -> str:
    """Finds the line of a defaults list that matches a pattern."""
    return _line(rf"^\s*-\s*{pattern}", "", places)


def _line(pattern: str, key: str = "", places: Sequence[str] = ()) -> str:
    """Finds the line of a user's file that matches a pattern, or the key's last part after it."""
    for place in places or [str(Path.cwd() / "conf")]:
        for path in [Path(place)] if place.endswith(".yaml") else sorted(Path(place).rglob("*.yaml")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for number, line in enumerate(lines, 1):
                if re.search(pattern, line):
                    last = re.compile(rf"\b{re.escape(key.rpartition('.')[2])}\b")
                    later = (n for n, text in enumerate(lines[number - 1 :], number) if last.search(text))
                    return f"{shown(path)}:{next(later, number) if key else number}"
    return ""


def _word_of(key: str, words: list[str], prefix: str = "") -> str | None:
    """Returns the last word that sets a key, or something in it."""
    for word in reversed(words):
        name = word.partition("=")[0]
        about = name.lstrip("+~").split("@")[0]
        if name.startswith(prefix) and (key in (about, name.lstrip("+~")) or about.startswith(f"{key}.")):
            return word
    return None


def _word_around(key: str, words: list[str]) -> str | None:
    """Returns the last word that gives the dict in which a key stands."""
    pairs = [(word, word.partition("=")) for word in reversed(words)]
    return next(
        (word for word, (name, _, value) in pairs if value[:1] == "{" and key.startswith(f"{name}.")), None
    )


def _is_free(key: str) -> bool:
    """Returns whether a key is among the arguments of a user's class, which may have others."""
    section, *rest = key.split(".")
    if not rest:
        return False
    known = validation.keys_of(Config).get(section)
    if isinstance(known, type):
        return len(rest) > 1 and rest[0] in validation.keys_of(known)
    return known is not None


def _other(error: Exception) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        at = str(error.problem).startswith(("found duplicate", "found unhashable"))
        mark = (
            error.problem_mark if at else error.context_mark or error.problem_mark
        )  # the line where the unfinished part begins
        reason = " ".join(filter(None, (error.context, error.problem)))
        return Problem("", f"this is not YAML: {reason}.", f"{shown(Path(mark.name))}:{mark.line + 1}")
    if isinstance(error, RecursionError):
        message = "a file refers to itself in its defaults list or its aliases, or is nested too deep."
        return Problem("", f"the configuration cannot be composed: {message}")
    if isinstance(error, UnicodeDecodeError | yaml.reader.ReaderError):
        broken = (path for path in sorted((Path.cwd() / "conf").rglob("*.yaml")) if not _is_text(path))
        place = next((shown(path) for path in broken), "")
        return Problem("", "the file is not UTF-8 text; save it as UTF-8.", place)
    said = " ".join(str(error).split()).partition(" full_key:")[0] or " ".join(
        str(error.__cause__ or type(error).__name__).split()
    )
    where = ""
    if header := re.search(r"(?:got|in) '(@?package.*)'$", said):
        said = (
            f"{header[1]!r} is not a valid header; the first line of an experiment is '# @package _global_'."
        )
        where = _line(rf"^#\s*{re.escape(header[1])}\s*$")
    elif inside := re.search(r"[Ii]n '([\w/.-]+)'", said):
        path = Path.cwd() / "conf" / f"{inside[1]}.yaml"
        where = shown(path) if path.is_file() else ""
    if _UNLIKE.search(said):
        said = _ALIKE
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        said = f"{type(error).__name__}: {said}"
    return Problem("", f"the configuration cannot be composed: {said}", where)


def _is_text(path: Path) -> bool:
    try:
        return "\x00" not in path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
