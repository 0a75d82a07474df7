"""Composes a configuration with Hydra, and reports all that Hydra refuses in looplab's form."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from looplab.config import hydra_settings, hydra_values
from looplab.config import paths as shipped
from looplab.config.hydra_errors import explained
from looplab.config.listed_sections import by_name
from looplab.config.project_settings import RUN_KEYS, TABLE
from looplab.config.said import Said
from looplab.config.source_locations import File, Origins, from_word, shown
from looplab.config.user_words import said_by
from looplab.errors import Problem, Refused, as_written

# Groups that are appended to the defaults list, in this order. callbacks=[...] removes an experiment's own.
_ADDED = ("experiment", "callbacks@_global_", "debug", "sweep")
_BARE = re.compile(r"[\w\s/.?|@%+*:$-]*", re.ASCII)  # characters that Hydra's grammar takes without quotes
_SYNTAX = re.compile(r"['\"\\,]|\$\{|^[\[{]|^\w+\(")  # signs with a meaning in that grammar
# Sections whose keys are free names.
_BY_ANY_NAME = re.compile(
    r"data\.validation_(freq|steps)(\.\w+=|=\{)|\+{0,2}(vars|data\.class_weight)(\.[^=]+=|=\{)"
)
_OF_CLASS = re.compile(r"(\+{0,2}data\.class_weight)\.(\d+)=([\d.eE+-]+)")
_LARGEST, _ALIASES = 2**18, 200  # the most bytes and aliases of a YAML file written by hand


class WorkingDirectory(SearchPathPlugin):
    """Makes Hydra search the working directory's `conf/` first, and the `conf/` of packages last."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Puts `./conf` first, if there is one, and those of trusted packages last."""
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != shipped.directory().resolve():
            search_path.prepend("working directory", f"file://{own}")
        for name, folder in shipped.of_packages().items():
            search_path.append(name, f"file://{folder}")


@dataclass(frozen=True)
class Composition:
    """The result of composing.

    Attributes:
        config: The composed configuration, without Hydra's own section; None if there is none.
        choices: The chosen option of each group.
        origins: The words and files of which it was composed.
        problems: What Hydra refused. `config` does not contain the refused words.
        unsafe: Settings with which Hydra would run or write something.
    """

    config: DictConfig | None
    choices: dict[str, Any]
    origins: Origins
    problems: tuple[Problem, ...]
    unsafe: tuple[Problem, ...] = ()
    several: bool = False
    swept_by_files: frozenset[str] = frozenset()

    @property
    def said(self) -> Said:
        """The user's settings, without the words that a sweep makes from files."""
        words = [word for word in self.origins.words if _key_of(word) not in self.swept_by_files]
        return said_by(words)


def understood(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line in the form that Hydra needs.

    `experiment=x` adds to a defaults list without that group, as `+experiment=x` does. So do `debug=x` and
    `sweep=x`, in this order, so that their values take effect. A value that Hydra's grammar takes only in
    quotes gets them, such as a path with an umlaut or a bracket, and `debug=nan`, which is not a number here.
    Values by validation set or class and the user's own values are added to the present ones, and replace a
    value for all. Lists of callbacks and of loggers become sections by name.
    """
    plain = [_quoted(re.sub(r"^(\+?debug=)nan$", r"\1'nan'", w)) for word in words for w in by_name(word)]
    plain = [_OF_CLASS.sub(r"\1={\2: \3}", word) for word in plain]  # whose number is no text
    plain = [f"++{word.lstrip('+')}" if _BY_ANY_NAME.match(word) else word for word in plain]
    groups = {name: [w for w in plain if re.match(rf"\+?{name}=", w)] for name in _ADDED}
    rest = [word for word in plain if not any(word in found for found in groups.values())]
    return [f"+{word.lstrip('+')}" for found in groups.values() for word in found] + rest


def _quoted(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-") or _BARE.fullmatch(value) or _SYNTAX.search(value):
        return word
    return f"{key}='{value}'"


def compose(
    words: Sequence[str],
    *,
    name: str = "train",
    folder: Path | None = None,
    run: Path | None = None,
    sweep: bool = False,
) -> Composition:
    """Composes a configuration; if words are wrong, composes the others.

    Args:
        words: Overrides, from `understood`.
        name: The primary configuration.
        folder: A folder that is searched first (`--config-dir`).
        run: The run directory whose configuration has that name in memory; see `saved_config`.
        sweep: Whether words may have several values, which are then left out.
    """
    Plugins.instance().register(WorkingDirectory)
    path = create_automatic_config_search_path(None, None, str(shipped.directory()))
    if folder is not None:
        path.prepend("command-line", f"file://{folder.absolute()}")
    refuse_bombs([Path.cwd() / "conf", *shipped.of_packages().values(), *filter(None, [folder])])
    GlobalHydra.instance().clear()
    loader = Hydra.create_main_hydra2("train", path).config_loader
    GlobalHydra.instance().clear()
    assert isinstance(loader, ConfigLoaderImpl)
    _refuse_search_path(loader, name, words)
    mode = RunMode.MULTIRUN if sweep else RunMode.RUN
    left, problems = list(words), []
    said = [word for word in words if word not in hydra_settings.WORDS]
    while True:
        try:
            whole = loader.load_configuration(name, left, mode)
        except Exception as error:
            problem, word = explained(error, left)
            problems.append(problem)
            if word is None:
                return Composition(None, {}, Origins(said), tuple(problems))
            left.remove(word)
            continue
        choices = dict(whole.hydra.runtime.choices)
        several = whole.hydra.mode == RunMode.MULTIRUN
        params = OmegaConf.to_container(whole.hydra.sweeper).get("params")  # type: ignore[union-attr]
        swept = frozenset(_key_of(str(key)) for key in params or () if isinstance(params, dict))
        said_already = {problem.key for problem in problems}
        unsafe = tuple(p for p in hydra_settings.problems(whole.hydra, said) if p.key not in said_already)
        HydraConfig.instance().set_config(copy.deepcopy(whole))
        hydra_values.stand_for(run)
        with open_dict(whole):
            del whole["hydra"]
        files = _files(loader, name, left)
        if run is not None:
            files.insert(0, File(run.absolute() / "config.yaml", ""))
        origins = Origins(said, files)
        unsafe += tuple(_outside(origins.files, [*shipped.folders(), *filter(None, [folder, run])]))
        return Composition(whole, choices, origins, tuple(problems), unsafe, several, swept)


def _key_of(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].split("@")[0]


def said_by_files(composition: Composition) -> Iterator[Problem]:
    """Finds keys that only the user may set, and to which a file gives another value than the default."""
    assert composition.config is not None
    for key, usual in hydra_settings.OF_USER.items():
        given = OmegaConf.to_container(composition.config, resolve=False)
        for part in key.split("."):
            given = given.get(part, usual) if isinstance(given, dict) else usual
        if given not in (usual, None, []) and not (
            composition.said.has(key) or _is_shipped(key, composition)
        ):
            yield Problem(
                key,
                f"{as_written(given)} is in a file, but only the user may set this: on the command line, "
                f"{key}=..., in Python, or{f' as {key} in' if key in RUN_KEYS else ''} {TABLE}.",
            )


def _is_shipped(key: str, composition: Composition) -> bool:
    """Returns whether looplab's own configuration files set a key, as `debug=fast` does."""
    file = composition.origins.file_of(key)
    return file is not None and file.path.resolve().is_relative_to(shipped.directory().resolve())


def _refuse_search_path(loader: ConfigLoaderImpl, name: str, words: Sequence[str]) -> None:
    """Refuses folders and packages named by a configuration: Hydra imports a package to look into it."""
    remedy = "not allowed in a configuration: --config-dir DIR adds a folder."
    for word in words:
        if word.lstrip("+~").split("=")[0].split("@")[0] == "hydra.searchpath":
            raise Refused([Problem("hydra.searchpath", remedy, from_word(word))])
    try:
        primary = loader.repository.load_config(name)
    except Exception:  # composing reports what is wrong with it
        return
    if (
        primary is not None
        and OmegaConf.is_dict(primary.config)
        and OmegaConf.select(primary.config, "hydra.searchpath") is not None
    ):
        inside = Path(primary.path.removeprefix("file://"), f"{name}.yaml")
        raise Refused(
            [Problem("hydra.searchpath", remedy, Origins(files=[File(inside, "")]).of("hydra.searchpath"))]
        )


def _files(loader: ConfigLoaderImpl, name: str, words: list[str]) -> list[File]:
    parsed, repository = loader._parse_overrides_and_create_caching_repo(name, words)
    listed = create_defaults_list(repository, name, parsed, prepend_hydra=True, skip_missing=True)
    files = []
    for default in listed.defaults:
        found = repository.load_config(default.config_path) if default.config_path else None
        if found is not None and found.path.startswith("file://"):
            inside = Path(found.path.removeprefix("file://"), f"{default.config_path}.yaml")
            files.append(File(inside, default.package or ""))
    return files


def _outside(files: Sequence[File], folders: Sequence[Path]) -> Iterator[Problem]:
    """Finds files whose names lead out of the folders of configurations."""
    known = [folder.absolute() for folder in folders]
    for file in files:
        inside = any(file.path.absolute().is_relative_to(folder) for folder in known)
        if ".." in file.path.parts or not inside:
            message = (
                f"{file.path} was named with '..' or an absolute path, but names refer only to files in "
                "conf/. Copy the file there."
            )
            yield Problem(file.package, message, "")


def refuse_bombs(folders: Sequence[Path]) -> None:
    """Refuses YAML that would fill the memory, since a copied file is not trusted.

    Raises:
        Refused: If a file is larger, or has more aliases, than any file written by hand.
    """
    for folder in folders:
        for path in folder.rglob("*.yaml") if folder.is_dir() else ():
            size = os.stat(path).st_size
            if size > _LARGEST:
                raise Refused(
                    [Problem("", f"the configuration has {size} bytes, which is too large.", shown(path))]
                )
            if len(re.findall(rb"(?m)(?:^|[\s,\[{:-])\*\w", path.read_bytes())) > _ALIASES:
                raise Refused(
                    [
                        Problem(
                            "",
                            f"it has more than {_ALIASES} YAML aliases; write the values out.",
                            shown(path),
                        )
                    ]
                )
