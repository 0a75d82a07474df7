"""The settings for steps that fail: a step that is not finite, or whose loss spikes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from looplab.errors import ConfigurationError, nearest
from looplab.options import bounds
from looplab.options.value_types import SAID, OneOf, Positive, Text

if TYPE_CHECKING:
    import numpy as np

POLICIES = ("stop", "skip", "rollback", "ignore")

DEVIATION = 1.4826  # the standard deviation of a normal distribution, in median distances from its median
LEAST = 0.01  # the least deviation, as a fraction of the median, if values hardly change


@dataclass(frozen=True)
class SpikeDetection:
    """The handling of a step whose loss spikes. Such a step is undone, like one that is not finite.

    Attributes:
        policy: `stop` ends the run, saved in its state before that step; `skip` continues with the next
            batch; `rollback` returns to the newest checkpoint and continues with half the learning rate;
            `ignore`, the default, does not check for spikes.
        monitor: The name of the scalar of a training step to watch.
        window: The number of previous steps to compare with, at least 10. Before that many steps there is no
            spike.
        threshold: The number of standard deviations, estimated from medians, by which the value must exceed
            the median; above 0.
    """

    policy: Annotated[str, OneOf(POLICIES), SAID] = "ignore"
    monitor: Annotated[str, Text("the name of a value"), SAID] = "loss"
    window: Annotated[int, bounds.WINDOW, SAID] = 100
    threshold: Annotated[float, Positive(), SAID] = 10.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigurationError: If one is out of its range.
        """
        if self.policy not in POLICIES:
            raise ConfigurationError(
                f"spikes.policy: {self.policy!r} is not one of {', '.join(map(repr, POLICIES))}."
                + nearest(str(self.policy), POLICIES)
            )
        bounds.whole("spikes.window", self.window, bounds.WINDOW)
        if not self.threshold > 0:
            raise ConfigurationError(f"spikes.threshold: must be above 0, got {self.threshold}.")

    def limit(self, last: np.ndarray) -> float:
        """Returns the limit above which a value is a spike, in float32, as a step computes it in the graph.

        Args:
            last: The values of the last steps, `[window]`, in any order.
        """
        import numpy as np  # imported here, since a command reads options before it needs NumPy

        def middle(numbers: np.ndarray) -> np.float32:  # of an even number, the greater middle value
            return np.float32(np.sort(numbers)[len(numbers) // 2])

        values = np.asarray(last, np.float32)
        median = middle(values)
        spread = np.float32(DEVIATION) * middle(np.abs(values - median))
        deviation = np.maximum(spread, np.float32(LEAST) * np.abs(median))
        return float(median + np.float32(self.threshold) * deviation)


@dataclass(frozen=True)
class Safeguards:
    """The handling of a run that fails or hangs.

    Attributes:
        on_nonfinite: One of `POLICIES`, for a step whose loss or gradient is not finite.
        spikes: The handling of a step whose loss spikes.
        hang_timeout: The time without progress after which the run is ended, such as `"60min"`; None for no
            limit.
    """

    on_nonfinite: str = "stop"
    spikes: SpikeDetection = SpikeDetection()
    hang_timeout: str | None = None

    def check(self, run_dir: Path | None) -> Self:
        """Checks that a run can use these settings, and returns them.

        Args:
            run_dir: The run directory, or None.

        Raises:
            ConfigurationError: If a run cannot use them.
        """
        on_nonfinite, spikes = self.on_nonfinite, self.spikes
        if on_nonfinite not in POLICIES:
            raise ConfigurationError(
                f"on_nonfinite: {on_nonfinite!r} is not one of {', '.join(map(repr, POLICIES))}."
                + nearest(str(on_nonfinite), POLICIES)
            )
        if on_nonfinite == "ignore" != spikes.policy:
            raise ConfigurationError(
                f"spikes.policy: {spikes.policy} undoes a step, but with on_nonfinite='ignore' no step is "
                "undone. Use on_nonfinite='stop' or 'skip', or spikes.policy='ignore'."
            )
        for key, policy in (("on_nonfinite", on_nonfinite), ("spikes.policy", spikes.policy)):
            if policy == "rollback" and run_dir is None:
                raise ConfigurationError(
                    f"{key}: rollback goes back to a checkpoint, but without a run_dir there is none. Give a "
                    f"run_dir, or use {key}='skip'."
                )
        return self
