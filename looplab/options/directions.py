"""Decides by the name of a monitor whether a higher or a lower value is better."""

from __future__ import annotations

import re

_RISE = frozenset(
    [
        "acc",
        "accuracy",
        "auc",
        "auroc",
        "auprc",
        "precision",
        "recall",
        "sensitivity",
        "specificity",
        "f1",
        "fbeta",
        "score",
        "iou",
        "dice",
        "jaccard",
        "map",
        "ndcg",
        "mrr",
        "r2",
        "correlation",
        "pearson",
        "spearman",
        "kappa",
        "mcc",
        "bleu",
        "rouge",
        "psnr",
        "ssim",
        "match",
        "matches",
        "correct",
        "hit",
        "hits",
        "reward",
        "rewards",
        "return",
        "returns",
        "win",
        "wins",
        "solved",
        "success",
        "likelihood",
    ]
)
_FALL = frozenset(
    [
        "loss",
        "losses",
        "error",
        "errors",
        "err",
        "mse",
        "mae",
        "rmse",
        "mape",
        "msle",
        "nll",
        "crossentropy",
        "perplexity",
        "ppl",
        "divergence",
        "kl",
        "hinge",
        "huber",
        "logcosh",
        "poisson",
        "brier",
        "fid",
        "wer",
        "cer",
        "lpips",
        "ece",
        "regret",
        "failure",
        "failures",
        "distance",
    ]
)
_ALWAYS_FALL = frozenset(("brier", "negative", "neg"))  # a Brier score is an error


def rises(monitor: str, mode: str = "auto") -> bool:
    """Returns whether a higher value of a monitor is better.

    Args:
        monitor: The value's name.
        mode: `"min"`, `"max"`, or `"auto"`: the name decides, and a name that looplab does not know should
            fall.
    """
    return mode == "max" or (mode == "auto" and _known(monitor) is True)


def is_guess(monitor: str, mode: str) -> bool:
    """Returns whether nothing says in which direction a monitor should go."""
    return mode == "auto" and _known(monitor) is None


def direction(monitor: str, mode: str) -> str:
    """Returns a monitor with its direction, as text: `"val_loss, lower is better"`."""
    return f"{monitor}, {'higher' if rises(monitor, mode) else 'lower'} is better"


def guessed(monitor: str, setting: str) -> str:
    """Returns a text on a direction that was a guess.

    Args:
        monitor: The value's name.
        setting: The setting that decides it, such as `"checkpoint.mode"`.
    """
    return (
        f"{setting}: 'auto' does not know whether a higher or a lower {monitor!r} is better, and takes the "
        "lower one. Set the mode to 'max' or 'min'."
    )


def _known(monitor: str) -> bool | None:
    """Returns whether a monitor should rise by the last word in its name that is known; None if none is."""
    words = re.findall(r"[a-z]+\d*", monitor.lower())
    if _ALWAYS_FALL & set(words):
        return False
    if re.search(r"(^|_)io_u$", monitor):  # Keras' MeanIoU
        return True
    for word in reversed(words):
        for known in (word, word.rstrip("0123456789")):
            if known in _RISE or known in _FALL:
                return known in _RISE
    return None
