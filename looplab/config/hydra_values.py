"""Sets the values of `${hydra:...}` for a run, whose directory and number Hydra does not know."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import open_dict, read_write

UNKNOWN = Path("the run directory")  # stands for a directory that is not chosen yet
OF_A_JOB = "job.json"  # in the folder of a sweep's job, whose name is the job's number


def stand_for(run_dir: Path | None) -> None:
    """Makes `${hydra:...}` return the values of a run: its directory, and its number in a sweep.

    Hydra itself knows neither: looplab chooses a run's directory after composing, and each job of a sweep is
    a separate process. A run outside of a sweep has the number 0.

    Args:
        run_dir: The run directory; None if it is not known, and then `UNKNOWN` stands for it.
    """
    if "hydra.core.hydra_config" not in sys.modules:
        return
    from hydra.core.hydra_config import HydraConfig  # already loaded by composing

    if not HydraConfig.initialized():  # it was composed in Python
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
    """Returns the current value of `${hydra:runtime.output_dir}`; None if nothing was composed."""
    if "hydra.core.hydra_config" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None
