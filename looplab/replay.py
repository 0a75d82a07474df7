"""Repeats a recorded bad step, and names the first operation whose result was not finite.

python -m looplab.replay run_dir=DIR [step=N] [key=value] ...
"""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig

from looplab.cli.main import run
from looplab.cli.run_arguments import RunWords
from looplab.cli.shutdown import leave
from looplab.cli.startup import import_tensorflow
from looplab.config import Said, check
from looplab.errors import DivergedError, Problem, Refused


def main() -> int:
    """Repeats a step whose loss was not finite or rose suddenly, and names the first such operation.

    Returns:
        The exit code, as in `looplab.train`: 0 if the step was reproduced, 4 if it was not.
    """
    words = RunWords(
        "replay",
        {"step": "optional: the number of the step, from 1; without it, the last recorded step"},
    )
    return run(lambda composed, _, said: _replay(composed, said, words), words.read)


def _replay(composed: DictConfig, said: Said, words: RunWords) -> None:
    config, step = check(composed, said, words.run_dir), words.values.get("step")
    if step is not None and not step.isdecimal():
        raise Refused([Problem("step", f"expected a step, a whole number from 1, got {step!r}.")])
    import_tensorflow()
    from looplab import experiment as experiments
    from looplab.loggers import Console
    from looplab.training import bad_step

    folder = bad_step.find(words.run_dir, None if step is None else int(step))
    # Runs in the graph, in which each operation can be observed; saves nothing.
    execution = replace(config.execution, mode="graph")
    spikes = replace(config.spikes, policy="ignore" if config.spikes.policy == "ignore" else "stop")
    alone = replace(
        config, on_nonfinite="stop", spikes=spikes, callbacks=None, execution=execution, hang_timeout=None
    )
    trainer, data = experiments.build(alone, None)
    with Console(2) as console:
        found = trainer.replay(folder, **experiments.arguments(alone, data))
        for label, text in bad_step.lines(found):
            console.say(f"{label:<10}{text}")
    if not found.is_same:
        raise DivergedError(
            "the step could not be reproduced: the code or the types of the data may have changed."
        )


if __name__ == "__main__":
    leave(main())
