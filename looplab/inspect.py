"""Reads the data of an experiment and describes it; writes nothing.

python -m looplab.inspect +experiment=NAME ...
"""

from __future__ import annotations

from omegaconf import DictConfig

from looplab.cli.main import run
from looplab.cli.shutdown import leave
from looplab.cli.startup import import_tensorflow
from looplab.config import Said, check
from looplab.runs.directory import choose


def main() -> int:
    """Composes, checks, reads the data and describes it; trains nothing, writes nothing.

    Returns:
        The exit code, as in `looplab.train`: 0 if the data could be read.
    """
    return run(_inspect)


def _inspect(composed: DictConfig, experiment: str, said: Said) -> None:
    config = check(composed, said)
    run_dir = choose(config.run_dir, "auto", experiment)
    config = check(composed, said, run_dir)  # the source may use it
    import_tensorflow()
    from looplab import experiment as experiments
    from looplab.data import look
    from looplab.loggers import Console

    with Console(2) as console:
        for split, feed in experiments.feeds(config).items():
            console.say(split, style="bold")
            lines = look(feed)
            width = max(len(label) for label, _ in lines)
            for label, text in lines:
                console.say(f"  {label:<{width}}  {text}")
            console.say("")
        console.say("nothing was written")


if __name__ == "__main__":
    leave(main())
