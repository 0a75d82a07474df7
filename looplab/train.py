"""`python -m looplab.train +experiment=NAME [group=option] [key=value] ...`."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from looplab import config as configuration
from looplab.errors import LooplabError


class WorkingDirectory(SearchPathPlugin):
    """Makes Hydra look into the working directory's `conf/` before the one that looplab ships."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Puts `./conf` first, if there is one."""
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != configuration.directory().resolve():
            search_path.prepend("working directory", f"file://{own}")


def main() -> int:
    """Composes, checks and trains.

    Returns:
        The exit code: 0 done, 1 an error in user code, 2 configuration, 130 interrupted.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's errors come here, not to sys.exit
    # Both spellings mean the same; in Hydra only the first adds to a defaults list without it.
    sys.argv[1:] = [f"+{word}" if word.startswith("experiment=") else word for word in sys.argv[1:]]
    sys.path.insert(0, str(Path.cwd()))  # research code beside its own conf/
    Plugins.instance().register(WorkingDirectory)
    command = hydra.main(version_base="1.3", config_path=str(configuration.directory()), config_name="train")
    failures: list[BaseException] = []

    def task(composed: DictConfig) -> None:
        try:
            _train(composed)
        except BaseException as error:  # past Hydra, which would add its own lines
            failures.append(error)

    try:
        command(task)()
        if failures:
            raise failures[0]
    except (LooplabError, HydraException, OmegaConfBaseException) as error:
        print(f"looplab: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LooplabError) else 2
    except KeyboardInterrupt:
        print("looplab: interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _train(composed: DictConfig) -> None:
    checked = configuration.check(composed)
    name = HydraConfig.get().runtime.choices.get("experiment") or "train"
    run_dir = configuration.run_directory(checked, str(name).replace("/", "_"))
    with _quietly():
        import tensorflow as tf

        tf.config.list_physical_devices()
    from looplab import experiment

    experiment.run(checked, run_dir)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what native libraries print while they load from the terminal, unless they fail.

    TensorFlow greets every process with lines that no log level turns off. Whoever sets
    `TF_CPP_MIN_LOG_LEVEL` wants to see them.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            said.seek(0)
            os.write(2, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
