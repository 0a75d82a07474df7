"""What a `_target_` names and takes, read from source files; nothing is imported.

This refuses a mistyped argument within a second, before TensorFlow is imported. It must be right when it
speaks and may be silent: where the source cannot say, an argument counts as taken.
"""

from looplab.config.signatures.calls import Found, find
from looplab.config.signatures.definitions import Missing, module_folders

__all__ = ["Found", "Missing", "find", "module_folders"]
