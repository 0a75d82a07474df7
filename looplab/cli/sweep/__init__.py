"""Runs `--multirun`: every job of a sweep is a process and a run, in a folder of the sweep's directory.

Hydra composes and launches the jobs, with any sweeper and launcher. For each job it calls looplab, which
starts `python -m looplab.train` with the job's words, waits, and returns the objective. A crash, a lack of
memory or another precision in one job does not affect the others, and the sweeping process never imports
TensorFlow.
"""

from looplab.cli.sweep.begin import Begin, Sweep
from looplab.cli.sweep.job import Task
from looplab.cli.sweep.lifeline import end_with_the_sweep

__all__ = ["Begin", "Task", "end_with_the_sweep", "ended"]


def ended(code: int) -> int:
    """Ends the sweep of this process, if there is one: prints its table, writes `results.csv`.

    Args:
        code: The exit code that the command would have without the sweep.

    Returns:
        The exit code of the command: that of the signal that ended the sweep, otherwise that of the first
        failed job.
    """
    if Sweep.present is None:
        return code
    from looplab.cli.sweep.end import end  # loads NumPy and rich, which other commands do not need

    return end(Sweep.present, code)
