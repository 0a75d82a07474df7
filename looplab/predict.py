"""Writes the predictions of a checkpoint to a file, in the order of the data.

python -m looplab.predict run_dir=DIR output=FILE [checkpoint=best|last|STEP] [key=value] ...
"""

from __future__ import annotations

from omegaconf import DictConfig

from looplab import predictions
from looplab.cli.main import run
from looplab.cli.run_arguments import RunWords
from looplab.cli.shutdown import leave
from looplab.cli.startup import import_tensorflow
from looplab.config import Said, check
from looplab.errors import Problem, Refused


def main() -> int:
    """Predicts with a run's checkpoint, and writes the predictions to a file in the order of the data.

    Returns:
        The exit code, as in `looplab.evaluate`.
    """
    words = RunWords(
        "predict",
        {
            "output": "the file: .npz (an array for each output) or .parquet (a column for each)",
            "overwrite": "optional: true to replace that file",
            "split": "optional: a set of the data, such as train; without it, the first validation set",
        },
    )
    return run(lambda composed, _, said: _predict(composed, said, words), words.read)


def _predict(composed: DictConfig, said: Said, words: RunWords) -> None:
    config = check(composed, said, words.run_dir)
    output, overwrite = words.values.get("output"), words.is_true("overwrite")
    if not output:
        raise Refused([Problem("output", "name the file: output=FILE, which ends in .npz or .parquet.")])
    predictions.check(output, overwrite=overwrite, is_word=True)
    import_tensorflow()
    from looplab.experiment import load
    from looplab.loggers import Console

    with Console(2) as console:
        restored = load.restored(config, words.run_dir, words.checkpoint)
        split, batches = restored.predict(words.values.get("split"))
        shapes = predictions.write(output, batches, overwrite=overwrite)
        console.say(f"checkpoint  {restored.checkpoint}")
        console.say(f"{split:<10}  {', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}")
        console.say(f"written     {output}")


if __name__ == "__main__":
    leave(main())
