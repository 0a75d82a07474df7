"""What all commands share: words to a checked configuration, errors to exit codes, a quiet start."""

from __future__ import annotations

import gc
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from looplab import sweep
from looplab.config import (
    Config,
    completion,
    directory,
    hydra_part,
    of_run,
    reference,
    sweep_words,
    targets,
    validation,
)
from looplab.config.composition import Composition, WorkingDirectory, compose, understood
from looplab.config.explained import explained, options
from looplab.config.validation import contradictions, look
from looplab.errors import ConfigurationError, EndRequested, LooplabError, Problem, Refused, nearest
from looplab.options.paths import not_local
from looplab.runs import wall_time
from looplab.runs.directory import ending
from looplab.runs.terminal import Lasting, print_traceback, quietly

Task = Callable[[DictConfig, str], None]
Read = Callable[[Sequence[str]], tuple[list[str], Path] | None]


def run(task: Task, read: Read | None = None) -> int:
    """Runs a command: composes and checks what its words say, then does its task.

    Args:
        task: Called with the composed configuration and the name of the experiment.
        read: Of a command on a run that is there: takes the command's own words out, and returns the others
            and the run directory, whose configuration they change; or None if nothing is to be done.

    Returns:
        The exit code.
    """
    sweep.end_with_the_sweep()
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
    whole = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors come here, not to sys.exit
    OmegaConf.register_new_resolver("looplab.experiments", reference.experiments, replace=True)
    OmegaConf.register_new_resolver("looplab.reference", reference.keys, replace=True)
    Plugins.instance().register(WorkingDirectory)  # --help and completion know the project's options too

    def act() -> None:
        _refuse_shadows()
        sys.path.insert(0, str(Path.cwd()))  # research code beside its own conf/
        if read is None:
            _dispatch(sys.argv[1:], None, task, whole)
        elif (found := read(sys.argv[1:])) is not None:
            _dispatch(*found, task, whole)

    with wall_time.starting(wall_time.of_process):
        return sweep.ended(_exit_code(act, whole))


def _exit_code(act: Callable[[], None], whole: bool) -> int:
    """Returns the exit code that the end of an action means, and says why if it is not 0."""
    try:
        act()
    except Refused as error:
        for problem in error.problems:
            where = f"\n    {problem.where}" if problem.where else ""
            print(f"looplab: {problem}{where}", file=sys.stderr)
        if len(error.problems) > 1:
            print(f"looplab: {len(error.problems)} problems; nothing was started", file=sys.stderr)
        return error.exit_code
    except (LooplabError, EndRequested) as error:
        print(f"looplab: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("looplab: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print_traceback(error, whole)
        print(f"looplab: {ending(error)['reason']}", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class _Asked:
    """What the words of a command ask for.

    Attributes:
        args: Hydra's own options.
        flags: The words of these.
        words: Overrides, as Hydra wants them.
        name: The primary configuration.
        folder: A folder that is searched first, or None.
        source: The run directory that a new run starts from, or None.
        run: The run directory that the command is about, or None.
    """

    args: Namespace
    flags: list[str]
    words: list[str]
    name: str
    folder: Path | None
    source: Path | None
    run: Path | None


def _dispatch(given: Sequence[str], run: Path | None, task: Task, whole: bool) -> None:
    """Lets Hydra do what the words ask for, once they are known to be right."""
    asked = _asked(given, run)
    if asked.args.shell_completion:
        if own := completion.scripts().get(" ".join(asked.args.overrides)):
            print(own)
            return
        completion.prepare()
    asked, composition = _checked(asked)
    ended: list[BaseException] = []

    def job(composed: DictConfig) -> None:
        sys.argv[1:] = given  # what the person wrote, for environment.json
        try:  # what a task raises does not go past Hydra, which would add its own lines
            task(composed, _experiment(composition))
        except BaseException as error:
            ended.append(error)

    sys.argv[1:] = [*asked.flags, *asked.words]
    command = hydra.main(version_base="1.3", config_path=str(directory()), config_name="train")
    try:
        command(sweep.Task(job, whole))()
    except HydraException as refused:  # about a job of a sweep
        _refuse([explained(refused, asked.words)[0]], composition)
    for error in ended:
        if isinstance(error, Refused):
            raise type(error)(_located(error.problems, composition))
        raise error


def _asked(given: Sequence[str], run: Path | None) -> _Asked:
    args = _parsed(given)
    flags = _without(given, args.overrides)
    words, source = _from_run(understood(args.overrides))
    name, folder = args.config_name or "train", Path(args.config_dir) if args.config_dir else None
    if source is not None:
        name, folder = "config", source
        flags += ["--config-dir", str(source), "--config-name", name]
    if run is not None:
        of_run.keep(run, words)
        name, words = of_run.NAME, [*of_run.WORDS, *words]
        flags += ["--config-name", name]
    words = [*(word for word in hydra_part.WORDS if not _given(word, words)), *words]
    return _Asked(args, flags, words, name, folder, source, run)


def _checked(asked: _Asked) -> tuple[_Asked, Composition]:
    """Composes what was asked for, and refuses what is wrong with it."""
    args = asked.args
    several = args.multirun or any(w.startswith(("+sweep=", "hydra.mode=MULTIRUN")) for w in asked.words)
    composition = None if several else _composed(asked, False)
    if composition is None or composition.several:  # an experiment may say so
        several, asked = True, replace(asked, words=[hydra_part.SWEEP, *asked.words])
        composition = _composed(asked, True)
    if args.help or args.hydra_help or args.shell_completion:  # Hydra says what is wrong with words
        _refuse(composition.unsafe, composition)
    elif args.cfg or args.info:
        _refuse(composition.problems + composition.unsafe, composition)
    else:
        _refuse(_problems(composition, several, str(asked.source) if asked.source else None), composition)
        if several:
            _refuse(list(sweep_words.problems(asked.words, asked.name, asked.folder)), composition)
    return asked, composition


def _composed(asked: _Asked, several: bool) -> Composition:
    return compose(asked.words, name=asked.name, folder=asked.folder, run=asked.run, sweep=several)


def _refuse_shadows() -> None:
    """Keeps a file of the working directory from being imported in the place of a library."""
    here = str(Path.cwd())
    elsewhere = [path for path in sys.path if path not in ("", here)]
    for name in ("keras", "numpy", "tensorflow", "looplab"):
        own, usual = (PathFinder.find_spec(name, path) for path in ([here], elsewhere))
        if own is None or own.origin is None:
            continue
        worked_on_here = Path(own.origin).resolve() == Path(__file__).resolve().with_name("__init__.py")
        if not worked_on_here and (usual is None or own.origin != usual.origin):
            raise ConfigurationError(
                f"{own.origin} would be imported in the place of {name}: give it another name."
            )


def _parsed(given: Sequence[str]) -> Namespace:
    """Reads Hydra's options wherever they stand among the words."""
    parser: ArgumentParser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        word = next((w for w in given if w.startswith("-") and w.split("=")[0] in message), "").lstrip("-")
        name = word.partition("=")[0].replace("-", "_")
        if name in validation.keys_of(Config):
            message += f"; a key is written without dashes: {name}=..."
        hint = nearest(f"--{word}", parser._option_string_actions) if "unrecognized" in message else ""
        raise ConfigurationError(f"on the command line: {message};{hint} see --help and --hydra-help.")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_intermixed_args(list(given))
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    if len(asked := [f"--{mode.replace('_', '-')}" for mode in modes if getattr(args, mode)]) > 1:
        refuse(f"{' and '.join(asked)} do not go together")
    if args.resolve and not args.cfg:
        refuse("--resolve goes with --cfg only")
    if args.config_path is not None:
        refuse("--config-path is not taken: --config-dir DIR adds a folder of configurations")
    if args.experimental_rerun is not None:  # a pickle, which runs what it likes
        refuse("--experimental-rerun is not taken: from_run=DIR starts from the configuration of a run")
    if args.config_dir is not None and not Path(args.config_dir).is_dir():
        refuse(f"--config-dir {args.config_dir}: there is no such directory")
    return args


def _without(given: Sequence[str], words: Sequence[str]) -> list[str]:
    left = list(given)
    for word in words:
        left.remove(word)
    return left


def _given(word: str, words: Sequence[str]) -> bool:
    key = word.partition("=")[0]
    return any(other.lstrip("+").startswith(f"{key}=") for other in words)


def _from_run(words: list[str]) -> tuple[list[str], Path | None]:
    """Finds the run whose configuration a new one starts from."""
    found = [w.partition("=")[2].strip("'\"") for w in words if w.lstrip("+").startswith("from_run=")]
    if not found or found[-1] in ("", "null"):
        return words, None
    if why := not_local(found[-1]):
        raise Refused([Problem("from_run", why, f"on the command line: from_run={found[-1]}")])
    source = Path(found[-1]).expanduser()
    if not (source / "config.yaml").is_file():
        message = f"{source} has no config.yaml: give the directory of a run that the command started."
        raise Refused([Problem("from_run", message, f"on the command line: from_run={found[-1]}")])
    kept = [f"++{word.lstrip('+')}" if word.lstrip("+").startswith("from_run=") else word for word in words]
    return ["++run_dir=null", "++resume=auto", "++allow_change=[]", *kept], source


def _experiment(composition: Composition) -> str:
    assert composition.config is not None
    name = composition.choices.get("experiment") or composition.config.get("experiment") or "train"
    debug = composition.choices.get("debug")
    return "-".join(str(part).replace("/", "_") for part in (name, debug) if part)


def _problems(composition: Composition, several: bool, source: str | None) -> list[Problem]:
    """Finds all that is wrong and can be known without TensorFlow.

    The values of a sweep are left to its jobs: what they stand for is missing here.
    """
    problems = [*composition.problems, *composition.unsafe]
    if composition.config is None:
        return problems
    config, found = look(composition.config)
    problems += found
    problems += targets.check(config)
    if config.from_run is not None and config.from_run != source:
        message = "a file does not start from a run: give from_run=DIR on the command line."
        problems.append(Problem("from_run", message))
    if several:
        swept = [f"{key}." for key in sweep_words.keys(composition.origins.words)]
        return [p for p in problems if not any(key.startswith(f"{p.key}.") for key in swept)]
    if composition.problems:  # what is left of it may lack what the wrong words meant
        return problems
    if config.epochs is None and config.steps is None and _experiment(composition) == "train":
        there_are = ", ".join(options("experiment"))
        return [Problem("", f"no experiment: give +experiment=NAME, one of {there_are}; or see --help.")]
    wrong = {problem.key for problem in problems}
    if "experiment" in wrong:  # what its keys mean is not known
        return problems
    return problems + [p for p in contradictions(config) if not {p.key, "epochs", "steps"} & wrong]


def _refuse(problems: Sequence[Problem], composition: Composition) -> None:
    if problems:
        raise Refused(_located(problems, composition))


def _located(problems: Sequence[Problem], composition: Composition) -> list[Problem]:
    return [replace(p, where=p.where or composition.origins.of(p.key)) for p in problems]


def import_tensorflow() -> None:
    """Imports TensorFlow, late and without its greetings.

    Raises:
        KeyboardInterrupt: For a Ctrl-C meanwhile, also one that some module's bare `except` has caught.
    """
    with quietly(), _heeded(), _kept():
        import tensorflow as tf

        tf.config.list_physical_devices()
        import keras  # noqa: F401 - with all that it tries to import


@contextmanager
def _kept() -> Iterator[None]:
    """Leaves what is made within to the end of the process: no garbage collection walks over it.

    Modules stay anyhow, and those of TensorFlow and Keras are 400,000 objects, which tracing would have
    walked over again and again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _heeded() -> Iterator[None]:
    """Raises at the end what somebody within has swallowed of Ctrl-C."""
    came: list[int] = []

    def interrupt(number: int, frame: Any) -> NoReturn:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
