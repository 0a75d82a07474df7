"""Reads what a `_target_` names and takes from source files; imports nothing.

So a mistyped argument is refused within a second, before TensorFlow is imported. A refusal must be right, but
a missing one is acceptable: if the source does not tell, an argument counts as accepted.
"""

from looplab.config.signatures.calls import Found, find
from looplab.config.signatures.definitions import Missing, module_folders

__all__ = ["Found", "Missing", "find", "module_folders"]
