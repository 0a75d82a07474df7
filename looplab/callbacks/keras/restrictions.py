"""Lists the Keras callbacks that cannot work in a trainer, and what to use instead."""

from __future__ import annotations

import keras

from looplab.errors import ConfigurationError

_REFUSED = {
    keras.callbacks.BackupAndRestore: (
        "resume replaces it: with Trainer(run_dir=...) every checkpoint has the whole state, and the same "
        "command continues from it. Leave it out."
    ),
    keras.callbacks.ProgbarLogger: "looplab shows progress itself: fit(verbose=1). Leave it out.",
    keras.callbacks.CallbackList: "give the callbacks in it one by one.",
}


def check(callback: keras.callbacks.Callback) -> None:
    """Refuses a callback that cannot work in a trainer.

    Raises:
        ConfigurationError: The message has the reason and what to do instead.
    """
    for kind, why in _REFUSED.items():
        if isinstance(callback, kind):
            raise ConfigurationError(f"callbacks: {type(callback).__name__} is not supported: {why}")
