"""A shipped experiment made tiny and run in this process, whole and in two parts."""

from looplab import config, experiment
from looplab.config.compose import compose, understood
from tests.process import arrays, differing, records


def train(name, run_dir, *words):
    """Runs an experiment that looplab ships, with more words."""
    found = compose(understood([f"experiment={name}", "loggers.verbose=0", *words]))
    assert found.problems == ()
    return experiment.run(config.check(found.config), run_dir, {})


def continues_exactly(name, folder, *words):
    """Whether two epochs are the same bits with and without a restart; returns their records."""
    train(name, folder / "whole", *words, "epochs=2")
    for epochs in (1, 2):
        train(name, folder / "parts", *words, f"epochs={epochs}")
    assert differing(arrays(folder / "whole"), arrays(folder / "parts")) == []
    assert records(folder / "whole") == records(folder / "parts")
    return records(folder / "whole")


def last(run_dir, value):
    """The last value that a run logged under a tag."""
    return [record["values"][value] for record in records(run_dir) if value in record["values"]][-1]
