"""Reads the `config.yaml` of a run, which is written with a digest of itself."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from looplab.errors import DamagedFile
from looplab.runs.sealed import damaged, read_commented


def read(run_dir: Path) -> DictConfig:
    """Returns the content of a run's `config.yaml`, either as looplab wrote it or as the user changed it.

    A user who changes the file removes the digest in its first line.

    Raises:
        DamagedFile: If the digest does not match, or the content is not a configuration.
        OSError: If the file does not exist, or cannot be read.
    """
    path = run_dir / "config.yaml"
    try:
        text = read_commented(path)
    except DamagedFile as error:
        raise DamagedFile(f"{error} If you changed it yourself, remove its first line.") from None
    try:
        content = OmegaConf.load(StringIO(text))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise damaged(path, error) from None
    if not isinstance(content, DictConfig) or not content:
        raise damaged(path, ValueError("it is not a configuration, it has no keys"))
    return content
