"""What `${hydra:...}` stands for in a run, whose directory and number Hydra does not know."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import open_dict, read_write

UNKNOWN = Path("the run directory")  # stands for one that has not been chosen yet
OF_A_JOB = "job.json"  # of a sweep, in its folder, whose name is its number


def stand_for(run_dir: Path | None) -> None:
    """Has `${hydra:...}` give what holds for a run: its directory, and its number in a sweep.

    Hydra itself knows neither: a run's directory is chosen after composing, and each job of a sweep is a
    process of its own. A run that is none of a sweep has the number 0.

    Args:
        run_dir: The run directory; None while it is not known, when `UNKNOWN` stands for it.
    """
    if "hydra.core.hydra_config" not in sys.modules:
        return
    from hydra.core.hydra_config import HydraConfig  # which was loaded to compose

    if not HydraConfig.initialized():  # composed in Python
        return
    part: Any = HydraConfig.get()
    path = (run_dir or UNKNOWN).absolute()
    of_sweep = run_dir is not None and path.name.isdecimal() and (path / OF_A_JOB).is_file()
    number = int(path.name) if of_sweep else 0
    given = [word.lstrip("+").partition("=")[0] for word in part.overrides.hydra]
    with read_write(part), open_dict(part):
        part.runtime.output_dir = str(path)
        for key, value in {"name": "train", "num": number, "id": f"train_{number}"}.items():
            if f"hydra.job.{key}" not in given:
                part.job[key] = value


def output_dir() -> Path | None:
    """Returns what `${hydra:runtime.output_dir}` stands for now; None where nothing was composed."""
    if "hydra.core.hydra_config" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None
