"""Evaluates a checkpoint on the validation sets of the run's data, or on other data.

python -m looplab.evaluate run_dir=DIR [checkpoint=best|last|STEP] [split=NAME] [key=value] ...
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from looplab.cli.main import run
from looplab.cli.run_arguments import RunWords
from looplab.cli.shutdown import leave
from looplab.cli.startup import import_tensorflow
from looplab.config import Said, check
from looplab.errors import ConfigurationError
from looplab.runs.directory import write_json


def main() -> int:
    """Evaluates a run's checkpoint on its validation sets, or on other data.

    Returns:
        The exit code: 0 done, 1 an error in user code, 2 configuration or no such checkpoint, 3 a checkpoint
        that is damaged or does not fit, 5 data, 6 storage.
    """
    words = RunWords(
        "evaluate",
        {
            "split": "optional: one of the sets of the data, such as train; without it, every validation set",
            "output": "optional: a .json file for the values; without it, they are only printed",
            "overwrite": "optional: true to replace that file",
        },
    )
    return run(lambda composed, _, said: _evaluate(composed, said, words), words.read)


def _evaluate(composed: DictConfig, said: Said, words: RunWords) -> None:
    config, output = check(composed, said, words.run_dir), words.values.get("output")
    if output is not None:
        _check_output(Path(output), words.is_true("overwrite"))
    import_tensorflow()
    from looplab.experiment import load
    from looplab.loggers import Console, as_text, in_json

    with Console(2) as console:
        restored = load.restored(config, words.run_dir, words.checkpoint)
        values = restored.evaluate(words.values.get("split"))
        console.say(f"checkpoint  {restored.checkpoint}")
        for split, own in values.items():
            console.say(f"{split:<10}  {as_text(own)}")
        if output is not None:
            shown = {split: in_json(own) for split, own in values.items()}
            content = {"checkpoint": str(restored.checkpoint), "step": restored.step, "values": shown}
            write_json(Path(output), content)
            console.say(f"written     {output}")


def _check_output(path: Path, overwrite: bool) -> None:
    if path.suffix != ".json":
        raise ConfigurationError(f"output: {str(path)!r} must end in .json.")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"output: {path} exists. Choose another name, or set overwrite=true.")


if __name__ == "__main__":
    leave(main())
