"""`config.yaml` of a run: written with a digest of itself, and read again."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from looplab.errors import DamagedFile
from looplab.runs.sealed import damaged, read_commented


def read(run_dir: Path) -> DictConfig:
    """Returns what the `config.yaml` of a run says: what was written, or what a person has made of it.

    A person who changes it takes the digest in its first line away.

    Raises:
        DamagedFile: If it is neither, or is no configuration.
        OSError: If it is not there, or cannot be read.
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
