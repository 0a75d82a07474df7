"""Runs any command: from words to a checked configuration, and from errors to exit codes; starts quietly."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import hydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from looplab.cli import sweep
from looplab.cli.arguments import Arguments, read_arguments
from looplab.cli.startup import refuse_shadows
from looplab.config import (
    Said,
    directory,
    hydra_settings,
    left_over,
    reference,
    shell_completion,
    sweep_overrides,
    targets,
)
from looplab.config.compose import Composition, WorkingDirectory, compose, said_by_files
from looplab.config.contradictions import contradictions
from looplab.config.hydra_errors import explained, options
from looplab.config.validation import look
from looplab.errors import EndRequested, LooplabError, Problem, Refused, shown
from looplab.runs import wall_time
from looplab.runs.directory import ending
from looplab.runs.terminal import Lasting, print_traceback, printable

_LONG = re.compile(r"\S{256,}")  # longer than any name of a file: a mistake that needs no full text
Task = Callable[[DictConfig, str, Said], None]
Read = Callable[[Sequence[str]], tuple[list[str], Path] | None]


def run(task: Task, read: Read | None = None) -> int:
    """Runs a command: composes and checks its words, then calls its task.

    Args:
        task: Called with the composed configuration, the experiment's name, and the user's settings.
        read: For a command on an existing run: takes the command's own words, and returns the others with the
            run directory, whose configuration they change; or None if there is nothing to do.

    Returns:
        The exit code.
    """
    sweep.end_with_the_sweep()
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
    whole = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors and does not call sys.exit
    for name, text in {"experiments": reference.experiments, "reference": reference.keys}.items():
        OmegaConf.register_new_resolver(f"looplab.{name}", partial(_in_template, text), replace=True)
    Plugins.instance().register(WorkingDirectory)  # so --help and completion show the project's options

    def act() -> None:
        refuse_shadows()
        sys.path.insert(0, str(Path.cwd()))  # for research code beside its own conf/
        if read is None:
            _dispatch(sys.argv[1:], None, task, whole)
        elif (found := read(sys.argv[1:])) is not None:
            _dispatch(*found, task, whole)

    with wall_time.starting(wall_time.of_process):
        return sweep.ended(_exit_code(act, whole))


def _in_template(text: Callable[[], str]) -> str:
    """Returns a text for the template of `--help`, in which a dollar has a special meaning."""
    return text().replace("$", "$$")


def _exit_code(act: Callable[[], None], whole: bool) -> int:
    """Runs an action and returns the exit code for its end; prints the reason if the code is not 0."""
    try:
        act()
    except Refused as error:
        for problem in error.problems:
            where = f"\n    {printable(problem.where)}" if problem.where else ""
            print(f"looplab: {_LONG.sub(_begun, shown(str(problem)))}{where}", file=sys.stderr)
        if len(error.problems) > 1:
            print(f"looplab: {len(error.problems)} problems; nothing was started", file=sys.stderr)
        return error.exit_code
    except (LooplabError, EndRequested) as error:
        print(f"looplab: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("looplab: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print_traceback(error, whole)
        print(f"looplab: {shown(ending(error)['reason'])}", file=sys.stderr)
        return 1
    return 0


def _begun(word: re.Match[str]) -> str:
    return f"{word[0][:120]}..."


def _dispatch(given: Sequence[str], run: Path | None, task: Task, whole: bool) -> None:
    """Lets Hydra run the words, after they were checked."""
    arguments = read_arguments(given, run)
    if arguments.options.shell_completion:
        if own := shell_completion.scripts().get(" ".join(arguments.options.overrides)):
            print(own)
            return
        shell_completion.prepare()
    arguments, composition = _checked(arguments)
    ended: list[BaseException] = []

    def job(composed: DictConfig) -> None:
        sys.argv[1:] = given  # the user's words, for environment.json
        try:  # an error of a task must not pass through Hydra, which would add its own lines
            task(composed, _experiment(composition), composition.said)
        except BaseException as error:
            ended.append(error)

    sys.argv[1:] = [*arguments.flags, *arguments.words]
    command = hydra.main(version_base="1.3", config_path=str(directory()), config_name="train")
    try:
        command(sweep.Task(job, whole))()
    except HydraException as refused:  # from a job of a sweep
        _refuse([explained(refused, arguments.words)[0]], composition)
    for error in ended:
        if isinstance(error, Refused):
            raise type(error)(_located(error.problems, composition))
        raise error


def _checked(arguments: Arguments) -> tuple[Arguments, Composition]:
    """Composes the arguments, and refuses what is wrong with them."""
    options = arguments.options
    several = options.multirun or any(
        w.startswith(("+sweep=", "hydra.mode=MULTIRUN")) for w in arguments.words
    )
    composition = None if several else _composed(arguments, False)
    if composition is None or composition.several:  # an experiment may ask for a sweep
        several, arguments = True, replace(arguments, words=[hydra_settings.SWEEP, *arguments.words])
        composition = _composed(arguments, True)
    if options.help or options.hydra_help or options.shell_completion:  # Hydra reports wrong words
        _refuse(composition.unsafe, composition)
    elif options.cfg or options.info:
        _refuse(composition.problems + composition.unsafe, composition)
    else:
        _refuse(
            _problems(composition, several, str(arguments.source) if arguments.source else None), composition
        )
        if several:
            _refuse(
                list(sweep_overrides.problems(arguments.words, arguments.name, arguments.folder)), composition
            )
    return arguments, composition


def _composed(arguments: Arguments, several: bool) -> Composition:
    return compose(
        arguments.words, name=arguments.name, folder=arguments.folder, run=arguments.run, sweep=several
    )


def _experiment(composition: Composition) -> str:
    assert composition.config is not None
    name = composition.choices.get("experiment") or composition.config.get("experiment") or "train"
    debug = composition.choices.get("debug")
    return "-".join(str(part).replace("/", "_") for part in (name, debug) if part)


def _problems(composition: Composition, several: bool, source: str | None) -> list[Problem]:
    """Finds all errors that can be found without TensorFlow.

    The values of a sweep are left to its jobs, since they are not chosen yet.
    """
    problems = [*composition.problems, *composition.unsafe]
    if composition.config is None:
        return problems
    config, found = look(composition.config, composition.said)
    problems += found
    wrong = {problem.key for problem in problems}
    problems += [problem for problem in said_by_files(composition) if problem.key not in wrong]
    problems += targets.check(config)
    if config.from_run is not None and config.from_run != source:
        message = "a file may not set this: give from_run=DIR on the command line."
        problems.append(Problem("from_run", message))
    if several:
        swept = [f"{key}." for key in sweep_overrides.keys(composition.origins.words)]
        return [p for p in problems if not any(key.startswith(f"{p.key}.") for key in swept)]
    if composition.problems:  # the rest may lack what the wrong words should set
        return problems
    if config.epochs is None and config.steps is None and _experiment(composition) == "train":
        there_are = ", ".join(options("experiment"))
        return [Problem("", f"no experiment: give +experiment=NAME, one of {there_are}; or see --help.")]
    wrong = {problem.key for problem in problems}
    if "experiment" in wrong:  # the meaning of its keys is not known
        return problems
    return problems + [p for p in contradictions(config) if not {p.key, "epochs", "steps"} & wrong]


def _refuse(problems: Sequence[Problem], composition: Composition) -> None:
    if problems:
        raise Refused(_located(problems, composition))


def _located(problems: Sequence[Problem], composition: Composition) -> list[Problem]:
    return left_over.located(problems, composition.origins)
