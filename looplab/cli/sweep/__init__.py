"""`--multirun`: every job of a sweep is a process and a run of its own, in a folder of the sweep's directory.

Hydra composes and launches the jobs, by whatever sweeper and launcher; what it calls for each starts
`python -m looplab.train` with the job's words, waits, and returns the objective. A crash, a lack of
memory or another precision in one job is nothing to the others, and the sweeping process never
imports TensorFlow.
"""

from looplab.cli.sweep.begin import Begin, Sweep
from looplab.cli.sweep.job import Task
from looplab.cli.sweep.lifeline import end_with_the_sweep

__all__ = ["Begin", "Task", "end_with_the_sweep", "ended"]


def ended(code: int) -> int:
    """Ends this process' sweep, if it has one: prints its table, writes `results.csv`.

    Args:
        code: The exit code that the command would have without it.

    Returns:
        The exit code that it has: of the signal that ended the sweep, else of the first job that
        failed.
    """
    if Sweep.present is None:
        return code
    from looplab.cli.sweep.end import end  # NumPy and rich, for which other commands need not wait

    return end(Sweep.present, code)
