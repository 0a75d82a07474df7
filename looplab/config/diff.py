"""Compares a resumed run's configuration with the recorded one, and refuses changes of its results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from looplab.config import config_file, environment, hydra_settings
from looplab.config.schema import Config
from looplab.config.validation import keys_of
from looplab.errors import ChangedRun, DamagedFile, Problem
from looplab.options.value_types import FREE, SAID
from looplab.runs.directory import holds_run
from looplab.secret import redacted

_ALL = "config"  # in allow_change: every key
# Resolvers whose values belong to one start, such as a date: their arguments are compared instead.
_OF_ONE_START = re.compile(r"\$\{(?=\s*[\w.]+:)(?!\s*oc\.(select|dict|create|decode|deprecated))")
_NO_PART = {"run_dir", "resume", "from_run", "allow_change", "experiment"}


@dataclass(frozen=True)
class Change:
    """A key that differs.

    Attributes:
        key: The key.
        before: Its value in the run's `config.yaml`.
        now: Its value now.
    """

    key: str
    before: Any
    now: Any

    @property
    def mark(self) -> str | None:
        """`FREE`, `SAID`, or None for a key that changes what is computed."""
        section, *rest = self.key.split(".")
        annotation = keys_of(Config).get(section)
        if is_dataclass(annotation) and rest:
            annotation = keys_of(annotation).get(rest[0])  # type: ignore[arg-type]
        marks = [mark for mark in get_args(annotation) if mark in (FREE, SAID)]
        return marks[0] if marks else None

    def __str__(self) -> str:
        """Returns `key (before -> now)`."""
        return f"{self.key} ({self.before} -> {self.now})"


def written(composed: DictConfig, experiment: str) -> dict[str, Any]:
    """Returns the content for `config.yaml`: interpolations unresolved, defaults filled in, no secrets.

    Args:
        composed: A configuration that `check` has passed.
        experiment: The name of the experiment.
    """
    defaults = OmegaConf.create({key: own for key, own in asdict(Config()).items() if key in keys_of(Config)})
    whole = OmegaConf.to_container(OmegaConf.merge(defaults, composed))
    assert isinstance(whole, dict)
    return redacted({**hydra_settings.with_choices(whole), "experiment": experiment})


def since(run_dir: Path, now: Mapping[str, Any]) -> list[Change]:
    """Returns the differences from the configuration that is recorded in a run directory.

    Raises:
        DamagedFile: If the recorded file is damaged.
    """
    before = _read(run_dir)
    return [] if before is None else differences(before, now)


def is_same(run_dir: Path, now: Mapping[str, Any]) -> bool:
    """Returns whether there are no differences; False if the recorded file is damaged."""
    with suppress(DamagedFile):
        return not since(run_dir, now)
    return False


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Returns the keys that differ, except those that only say where and how a run continues.

    A key that takes its value from another key differs if that value differs.
    """
    flat_before, flat_now = _flat(before), _flat(now)
    whole_before, whole_now = _as_config(before), _as_config(now)
    changes = []
    for key in sorted({*flat_before, *flat_now}):
        pair = flat_before.get(key), flat_now.get(key)
        if any("${" in str(value) for value in pair):
            with environment.marked():  # a message about a change must not contain a variable's value
                resolved = _at(whole_before, key, pair[0]), _at(whole_now, key, pair[1])
            resolved = environment.told(resolved[0]), environment.told(resolved[1])
            pair = resolved if pair[0] == pair[1] or resolved[0] == resolved[1] else pair
        if pair[0] != pair[1] and key.split(".")[0] not in _NO_PART:
            changes.append(Change(key, *pair))
    return changes


def compared(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a configuration by which runs are compared; see `differences`."""
    return {key: value for key, value in whole.items() if key not in _NO_PART}


def refuse(run_dir: Path, now: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuses to continue a run with a configuration that computes something else.

    Args:
        run_dir: The directory of the run.
        now: From `written`.
        allowed: Keys that may change, with everything in them; `config` means every key.

    Raises:
        ChangedRun: For each key that differs and may not.
        DamagedFile: If the recorded configuration is damaged, unless every key may change.
    """
    names = list(allowed)
    if not holds_run(run_dir) or _ALL in names:
        return
    if not (run_dir / "config.yaml").exists() and any((run_dir / "checkpoints").glob("step-*")):
        raise DamagedFile(
            f"{run_dir} has checkpoints but no config.yaml to compare this configuration with. Put it back, "
            "or continue without the comparison: allow_change=[config]. Continue a run of Python in Python."
        )
    try:
        changes = since(run_dir, now)
    except DamagedFile as error:
        words = "Or continue without the comparison: allow_change=[config]."
        raise DamagedFile(f"{error} {words}") from None
    problems = [
        Problem(
            change.key,
            f"the run in {run_dir} was started with {change.before!r}; {change.now!r} would change its "
            f"results. Choose another run_dir, or set allow_change=[{change.key}].",
        )
        for change in changes
        if change.mark is None and not any(change.key == n or change.key.startswith(f"{n}.") for n in names)
    ]
    if problems:
        raise ChangedRun(problems)


def _read(run_dir: Path) -> Mapping[str, Any] | None:
    try:
        found = OmegaConf.to_container(config_file.read(run_dir))
    except OSError:
        return None
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _as_config(whole: Mapping[str, Any]) -> DictConfig:
    """Returns a written configuration; interpolations that hold for one start only stay as they are."""

    def kept(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: kept(item) for key, item in value.items()}
        if isinstance(value, list):
            return [kept(item) for item in value]
        return _OF_ONE_START.sub(r"\\${", value) if isinstance(value, str) else value

    return OmegaConf.create(kept(whole))


def _at(whole: DictConfig, key: str, raw: Any) -> Any:
    """Returns the value of a key with interpolations resolved, or `raw` if that fails."""
    try:
        found = OmegaConf.select(whole, key)
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except (OmegaConfBaseException, RecursionError):
        return raw


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, Mapping) or not content:
        is_section = prefix.count(".") == 1  # an empty section is the same as none
        return {prefix.removesuffix("."): (content or None) if is_section and content == {} else content}
    return {k: v for key, item in content.items() for k, v in _flat(item, f"{prefix}{key}.").items()}
