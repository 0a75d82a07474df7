"""Finds settings that are valid alone but do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from looplab.config import components
from looplab.config.project_settings import TABLE
from looplab.config.schema import OF_A_CHECKPOINT, Config, Data
from looplab.errors import Problem, Refused, as_written, nearest
from looplab.options import compatibility, initialize_from
from looplab.options.paths import not_local
from looplab.options.value_types import Every
from looplab.protocols import HOST, TPU


def contradictions(config: Config) -> Iterator[Problem]:
    """Finds settings that are valid alone but do not go together."""
    data, execution, strategy = config.data, config.execution, config.strategy
    if config.epochs is not None and config.steps is not None:
        yield Problem(
            "steps",
            f"epochs={config.epochs} and steps={config.steps}: give only one of the two. If the experiment "
            "sets the other, make it null (epochs=null).",
        )
    if config.epochs is None and config.steps is None:
        yield Problem("epochs", "the length of training is missing: give epochs=N or steps=N.")
    if strategy.replicas is not None and strategy.name != "simulated":
        yield Problem(
            "strategy.replicas",
            f"{strategy.replicas} works only with strategy=simulated; the strategy is {strategy.name!r}.",
        )
    if strategy.address is not None and strategy.name != "tpu":
        yield Problem(
            "strategy.address",
            f"{strategy.address} works only with strategy=tpu; the strategy is {strategy.name!r}.",
        )
    yield from compatibility.refusals(
        compatibility.Settings(
            placement=TPU if strategy.name == "tpu" else HOST,
            precision=config.precision.policy,
            execution=execution.mode,
            run_eagerly=execution.run_eagerly,
            micro_batches=1 if execution.micro_batches == "auto" else int(execution.micro_batches),
        )
    )
    if execution.run_eagerly and execution.steps_per_execution not in ("auto", 1):
        yield Problem(
            "execution.steps_per_execution",
            f"{execution.steps_per_execution} steps in one call cannot run in Python "
            "(execution.run_eagerly): set it to 1.",
        )
    if data.source is None and data.batch_size is not None:
        yield Problem(
            "data.batch_size",
            f"{data.batch_size} has no effect without data.source: make_batch decides the size of its "
            "batches. Set it to null, or give a data.source.",
        )
    yield from _folds(data)
    if config.resume == "latest" and config.run_dir is not None:
        yield Problem(
            "resume", "latest looks for a run directory, but run_dir already names one: leave one out."
        )
    yield from _initialization(config)
    yield from _allowed(config)
    if config.schedule:
        yield from _rates(config.optimizer)
        yield from _steps(config.schedule)


def _folds(data: Data) -> Iterator[Problem]:
    """Finds errors in the settings of folds. Whether the source can be divided is checked later."""
    if data.folds is None and data.fold is None:
        return
    if data.source is None:
        key = "data.fold" if data.folds is None else "data.folds"
        yield Problem(
            key,
            "folds divide the examples of a data.source, but there is none: leave folds and fold out.",
        )
    if data.folds is None:
        yield Problem(
            "data.folds", f"data.fold={data.fold} needs the number of folds: give data.folds=5, for instance."
        )
    elif data.fold is None:
        yield Problem(
            "data.fold",
            f"the fold to hold out is missing: give data.fold=0 to data.fold={data.folds - 1}, or all of "
            f"them in a sweep: --multirun 'data.fold=range({data.folds})'.",
        )
    elif data.fold >= data.folds:
        yield Problem(
            "data.fold",
            f"there is no fold {data.fold}; data.folds={data.folds} has the folds 0 to {data.folds - 1}.",
        )
    if data.validation_split is not None:
        yield Problem(
            "data.validation_split",
            f"{data.validation_split} and data.folds both hold out training examples: give only one of the "
            "two.",
        )


def _initialization(config: Config) -> Iterator[Problem]:
    """Finds errors in `initialize_from`. Which run `resume=latest` continues is not known yet."""
    given = config.initialize_from
    path = given.get("path") if isinstance(given, dict) else given
    is_file = isinstance(path, str) and not_local(path) is None
    if is_file and not config.said.has("initialize_from") and not config.said.may_read(str(path)):
        yield Problem(
            "initialize_from",
            f"{as_written(path)} is outside the project, where a file may not read. Give it on the command "
            f"line, or list its folder under read in {TABLE}.",
        )
    if config.initialize_from is not None:
        try:
            initialize_from.read(config.initialize_from, config.run_dir, exists=config.resume != "latest")
        except Refused as refused:
            yield from refused.problems


def _allowed(config: Config) -> Iterator[Problem]:
    """Finds unknown keys in `allow_change`."""
    whole = asdict(config)
    for name in config.allow_change:
        inside: Any = whole
        for at, part in enumerate(name.split(".") if name not in ("config", *OF_A_CHECKPOINT) else ()):
            if not isinstance(inside, dict) or part not in inside:
                before = name.split(".")[:at]
                valid = [".".join([*before, key]) for key in inside] if isinstance(inside, dict) else []
                yield Problem("allow_change", f"there is no key {name!r}.{nearest(name, valid)}")
                break
            inside = inside[part]


def _steps(schedule: Any) -> Iterator[Problem]:
    """Finds numbers of steps that are not intervals; `2ep` is as valid as a number."""
    for name, value in schedule.items() if isinstance(schedule, dict) else ():
        if name.endswith("_steps") and value:
            try:
                Every().read(value)
            except ValueError:
                expected = Every().describe()
                yield Problem(f"schedule.{name}", f"expected {expected}, got {as_written(value)}.")


def _rates(optimizer: Any) -> Iterator[Problem]:
    if not optimizer:
        yield Problem(
            "schedule",
            "it needs an optimizer, but the configuration has none (the optimizer of a compiled model has "
            "its own rate): write optimizer={_target_: ...}, or schedule=constant.",
        )
    for key, section in components.optimizers(optimizer).items():
        if isinstance(section, str):
            yield Problem(
                "schedule",
                "it needs an optimizer section: write {_target_: ..., learning_rate: ...} instead of "
                f"{section!r}, or schedule=constant.",
            )
        elif isinstance(section, dict) and isinstance(section.get("learning_rate"), dict):
            why = "it is a schedule, but there is also a schedule section: leave one out."
            yield Problem(f"{key}.learning_rate", why)
