"""Reads the arguments of a command: Hydra's options, overrides, the run from which a new one starts."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from looplab.config import Config, hydra_settings, saved_config, validation
from looplab.config.compose import understood
from looplab.config.project_settings import project_settings
from looplab.errors import ConfigurationError, Problem, Refused, as_written, nearest
from looplab.options.paths import not_local


@dataclass(frozen=True)
class Arguments:
    """The arguments of a command.

    Attributes:
        options: Hydra's own options.
        flags: The words of these options.
        words: Overrides in the form that Hydra needs.
        name: The primary configuration.
        folder: A folder that is searched first, or None.
        source: The run directory from which a new run starts, or None.
        run: The run directory on which the command works, or None.
    """

    options: Namespace
    flags: list[str]
    words: list[str]
    name: str
    folder: Path | None
    source: Path | None
    run: Path | None


def read_arguments(given: Sequence[str], run: Path | None) -> Arguments:
    """Reads the arguments of a command.

    Args:
        given: The words.
        run: The run directory on which the command works, or None.

    Raises:
        LooplabError: If Hydra does not accept them, or they name a run that does not exist.
    """
    options = _parsed(given)
    flags = _without(given, options.overrides)
    words, source = _from_run(understood(options.overrides))
    name, folder = options.config_name or "train", Path(options.config_dir) if options.config_dir else None
    if source is not None:
        name, folder = "config", source
        flags += ["--config-dir", str(source), "--config-name", name]
    if run is not None:
        saved_config.keep(run, words)
        name, words = saved_config.NAME, [*saved_config.WORDS, *words]
        flags += ["--config-name", name]
    words = [*(word for word in hydra_settings.WORDS if not _given(word, words)), *words]
    if run is None:
        words += project_words(words)
    return Arguments(options, flags, words, name, folder, source, run)


def project_words(words: Sequence[str]) -> list[str]:
    """Returns the run settings of `pyproject.toml` as words, without those that the command line sets."""
    found = project_settings().run_keys
    return [f"++{key}={json.dumps(found[key])}" for key in found if not _given(f"{key}=", words)]


def _parsed(given: Sequence[str]) -> Namespace:
    """Reads Hydra's options at any place among the words."""
    parser: ArgumentParser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        word = next((w for w in given if w.startswith("-") and w.split("=")[0] in message), "").lstrip("-")
        name = word.partition("=")[0].replace("-", "_")
        if name in validation.keys_of(Config):
            message += f"; write a key without dashes: {name}=..."
        hint = nearest(f"--{word}", parser._option_string_actions) if "unrecognized" in message else ""
        raise ConfigurationError(f"on the command line: {message};{hint} see --help and --hydra-help.")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_intermixed_args(list(given))
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    if len(asked := [f"--{mode.replace('_', '-')}" for mode in modes if getattr(args, mode)]) > 1:
        refuse(f"{' and '.join(asked)} cannot be used together")
    if args.resolve and not args.cfg:
        refuse("--resolve works only with --cfg")
    if args.config_path is not None:
        refuse("--config-path is not supported: --config-dir DIR adds a folder of configurations")
    if args.experimental_rerun is not None:  # it loads a pickle, which can run anything
        refuse("--experimental-rerun is not supported: from_run=DIR starts from the configuration of a run")
    if args.config_dir is not None and (not_local(args.config_dir) or not Path(args.config_dir).is_dir()):
        refuse(f"--config-dir {as_written(args.config_dir)}: there is no such directory")
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
    """Finds the run whose configuration is the base of a new one."""
    found = [w.partition("=")[2].strip("'\"") for w in words if w.lstrip("+").startswith("from_run=")]
    if not found or found[-1] in ("", "null"):
        return words, None
    if why := not_local(found[-1]):
        raise Refused([Problem("from_run", why, f"on the command line: from_run={found[-1]}")])
    source = Path(found[-1]).expanduser()
    if not (source / "config.yaml").is_file():
        message = f"{source} has no config.yaml: give the directory of a run that a command started."
        raise Refused([Problem("from_run", message, f"on the command line: from_run={found[-1]}")])
    kept = [f"++{word.lstrip('+')}" if word.lstrip("+").startswith("from_run=") else word for word in words]
    return ["++run_dir=null", "++resume=auto", "++allow_change=[]", *kept], source
