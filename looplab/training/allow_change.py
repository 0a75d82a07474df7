"""Decides whether a run may continue as requested: on other replicas, with other data, with another step.

looplab refuses all changes of what is computed at once, unless the user allows them by name. The number of
replicas changes only rounding, because losses, gradients, BatchNormalization and random numbers are those of
the global batch; unless the step draws numbers that cannot follow the row, see `execution.row_random`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from looplab import random
from looplab.checkpoint import state
from looplab.errors import CheckpointError
from looplab.execution.graph_operations import digest
from looplab.options.recording import CHANGES
from looplab.training import schedule_settings
from looplab.training.engine.engine import Engine
from looplab.training.engine.row_draws import BY_REPLICA, BY_ROW

_log = logging.getLogger("looplab")

_OF_CONTENTS = ("contents", "fingerprint")  # of a position in the data
_NO_SETTING = ("name", "built")
_UNDIVIDED = "one"  # a batch in one piece draws the same by either rule
_TRACE = 2  # counts the changes of what looplab itself adds to the trace of a step


def computes(engine: Engine) -> dict[str, Any]:
    """Returns the facts about a run's computation that a checkpoint stores, in JSON's types."""
    optimizers, graph = engine.optimizers, engine.graph
    return {
        "topology": {"replicas": engine.strategy.num_replicas_in_sync},
        "random": random_rule(engine),
        "config": {f"{name}.{key}": v for name, own in optimizers.items() for key, v in _settings(own)},
        "lengths": {
            f"{name}.learning_rate.{key}": length
            for name, own in optimizers.items()
            for key, length in schedule_settings.settings(own._learning_rate.base)[1].items()
        },
        "code": None if graph is None else f"{_TRACE}:{digest(graph, constants=True)}",
        "fields": engine.kept.at_start(),  # that the steps read
    }


def random_rule(engine: Engine) -> str:
    """Returns the rule by which training draws random numbers now; a value of a checkpoint."""
    divided = engine.strategy.num_replicas_in_sync > 1 or engine.modes.micro_batches > 1
    return engine.draws.rule if divided else _UNDIVIDED


def _settings(optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, Any]]:
    """Yields the numbers and texts with which an optimizer and its schedule were created.

    The arguments of the schedule that follow the run's length are left out.
    """
    rate = optimizer._learning_rate.base
    rate = float(f"{rate:.7g}") if isinstance(rate, float) else rate  # Keras has rounded it to float32
    found = {"kind": type(optimizer).__name__, "learning_rate": rate, **vars(optimizer)}
    for key, value in found.items():
        plain = value is None or isinstance(value, bool | int | float | str)
        if plain and not key.startswith("_") and key not in _NO_SETTING:
            yield key, value
    for key, value in schedule_settings.settings(rate)[0].items():
        yield f"learning_rate.{key}".rstrip("."), value


def accepted(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    variables: state.Variables,
    allowed: Collection[str],
) -> dict[str, np.ndarray]:
    """Returns a checkpoint's arrays in the form for this trainer, if the run may continue with it.

    Args:
        before: The checkpoint's facts, from `computes` as far as its version had them, and `data`.
        now: The present facts.
        arrays: The checkpoint's arrays.
        variables: The live state.
        allowed: The names from `CHANGES` that may differ.

    Raises:
        CheckpointError: With all differences that are not allowed.
    """
    differs = {
        name: _said(name, before[name], now[name])
        for name in CHANGES
        if name in now and _differ(name, before, now)
    }
    if before.get("topology") != now["topology"]:
        differs.pop("code", None)  # the trace differs in any case
    if before.get("random") == BY_ROW and now["random"] == BY_REPLICA:
        own = ", ".join(filter(None, (differs.get("config"), f"random {BY_ROW} -> {BY_REPLICA}")))
        differs["config"] = own
    by_row = now["random"] != BY_REPLICA and _rule(before, variables) != BY_REPLICA
    if "topology" in differs and by_row:
        _log.info("the run goes on with other replicas: %s", differs.pop("topology"))
    fitting = state.regrouped(variables, arrays)
    if "code" in differs and (fields := _said("fields", before.get("fields", {}), now["fields"])):
        differs["code"] += f": {fields}"
    if "code" in differs:  # variables that do not fit explain more
        state.check(variables, fitting, "the checkpoint")
    refused = {name: text for name, text in differs.items() if name not in allowed}
    if refused:
        why = {
            "topology": "its steps draw random numbers, and other replicas draw others",
            "config": "its updates would differ",
            "data": "the coming epochs would have other examples than those of the run",
            "code": "its training step computes something else than when it was saved",
        }
        raise CheckpointError(
            "the run cannot continue as requested:\n  "
            + "\n  ".join(f"{name}: {text}; {why[name]}" for name, text in refused.items())
            + f"\nUse a new run_dir, undo the change, or allow it: allow_change=[{','.join(refused)}]."
        )
    for name, text in differs.items():
        _log.warning("the run goes on with another %s, as allowed: %s", name, text)
    if text := schedule_settings.differing(before.get("lengths", {}), now["lengths"]):
        _log.warning(
            "the schedule of the learning rate has another length than before: %s. The steps from here on "
            "have the rates of the new schedule, as if it had been that of the whole run.",
            text,
        )
    return fitting


def settle_random(engine: Engine, before: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Lets a continued run draw random numbers by the rule with which it was begun; before `accepted`.

    Args:
        engine: The trainer's engine.
        before: The checkpoint's facts.
        allowed: The names from `CHANGES` that may differ; with `"config"` a run changes to the present rule.
    """
    then, now = _rule(before, engine.variables), random_rule(engine)
    if then == BY_REPLICA and now == BY_ROW and "config" not in allowed:
        _log.info(
            "random numbers go on by replica, as when the run began; allow_change=[config] lets them follow "
            "the row from here on"
        )
        engine.draws.follow_replicas("began so")
        engine.draw_by_replica()


def spread_seeds(engine: Engine, before: Mapping[str, Any]) -> None:
    """Gives replicas equal seeds, or new replicas their own, by the rule; after the state was restored.

    Args:
        engine: The trainer's engine.
        before: The checkpoint's facts.
    """
    seeds = [v for path, v in engine.variables.items() if _is_seed(path, v)]
    replicas = engine.strategy.num_replicas_in_sync
    if engine.draws.rule == BY_ROW:
        random.unite_replicas(engine.strategy, seeds)
    elif int(before.get("topology", {}).get("replicas", replicas)) != replicas:
        random.separate_replicas(engine.strategy, seeds)


def _rule(before: Mapping[str, Any], variables: state.Variables) -> str:
    """Returns the rule by which a run drew random numbers; a version that did not say drew by replica."""
    pieces = (
        before.get("topology", {}).get("replicas", 1),
        before.get("execution", {}).get("micro_batches", 1),
    )
    draws = any(_is_seed(*named) for named in variables.items())
    return str(before.get("random") or (BY_REPLICA if draws and pieces != (1, 1) else _UNDIVIDED))


def _is_seed(path: str, variable: Any) -> bool:
    """Whether a variable is a random generator's state, by its path from `looplab.checkpoint.state`."""
    return path.endswith(("seed_generator_state", "/state")) and state.parts(variable)[0].dtype.is_integer


def _differ(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    then, present = before.get(name), now[name]
    if name == "code" and then and present and _version(then) != _version(present):
        _log.info("looplab has changed, so it is not known whether the training step computes the same")
        return False
    if isinstance(then, dict) and isinstance(present, dict):
        return bool(_differing(then, present))
    return then is not None and present is not None and then != present


def _version(code: str) -> str:
    """Returns the version of looplab's own operations in a digest; empty for the first version."""
    return code.rpartition(":")[0]


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the keys of both whose values differ; an earlier version of looplab may lack some keys."""
    return [key for key in sorted(before.keys() & now.keys()) if before[key] != now[key]]


def _said(name: str, before: Any, now: Any) -> str:
    if not isinstance(before, dict):
        return "its operations have changed"
    differing = _differing(before, now)
    found = [f"{key} {before[key]} -> {now[key]}" for key in differing if key not in _OF_CONTENTS]
    if "contents" in differing:
        found += _contents_said(before["contents"] or {}, now["contents"] or {}, "examples" in differing)
    elif "fingerprint" in differing and not found:  # of a version that did not know more
        found.append("its values have changed")
    return ", ".join(found)


def _contents_said(before: Mapping[str, str], now: Mapping[str, str], is_longer: bool) -> Iterator[str]:
    """Says of each part of the data how it differs: `"float32 [8, 8] <digest>"` in a checkpoint."""
    for part in dict.fromkeys((*before, *now)):
        (then, old), (present, new) = (each.get(part, "absent ").rsplit(" ", 1) for each in (before, now))
        if then != present:
            yield f"{part} {then} -> {present}"
        elif old != new and not is_longer:  # of so many more examples others are looked at
            yield f"the values of {part} have changed"
