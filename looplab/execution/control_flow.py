"""Explains control flow that cannot become part of a graph: the user's line, the reason and the remedy.

AutoGraph converts functions whose source it can read, but not all of Python. Code that it does not convert
fails as soon as it depends on a tensor's value; code that it converts must give the same kind of tensors in
each branch.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import tensorflow as tf

from looplab.compat import patches
from looplab.errors import ControlFlowError, LooplabError
from looplab.execution.branch_masks import LostMask
from looplab.execution.inline_functions import is_within
from looplab.runs import cause

_OPERATORS = re.compile(r"[/\\]tensorflow[/\\]python[/\\](autograph[/\\]operators|ops[/\\](cond|while))")
_OUT_OF_SCOPE = "is out of scope and cannot be used here"
_LIBRARIES = re.compile(r"[/\\\\](tensorflow|keras|looplab)[/\\\\]")
_GENERATED = "__autograph_generated"
_MADE = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
_NO_SOURCE = (
    "its source code is not available (it was typed in a terminal, or created by exec)",
    "Write it in a file",
)
_EAGERLY = "on one device run_eagerly=True runs it in Python unchanged"

# From AutoGraph's message to the remedy.
_REMEDIES = {
    "must also be initialized": "Give it a value before the if",
    "must also have a return": "Return in both branches, or once behind them",
    "return statement cannot be placed": "Assign it to a name, leave the loop by break, and return then",
    "has dtype": "Give it one dtype (tf.cast, tf.constant(..., dtype))",
    "nested structure": "Give it one structure",
    "is None at the end": "Give it a tensor there too",
    "must be defined before": "Give it a value before the loop",
    "not allowed to be None": "Give it a value before the loop",
    "set shape invariants": "Say which axes change: tf.autograph.experimental.set_loop_options("
    "shape_invariants=[(name, tf.TensorShape([None, ...]))]) as the first line of the loop",
    "scalar": "Choose for each example with tf.where, for the batch with tf.reduce_any or tf.reduce_all",
    "used before assignment": "Give it a value before the if or loop",
}

_causes: dict[CodeType, str] = {}  # why AutoGraph has not converted a function


@contextmanager
def explained() -> Iterator[None]:
    """Explains control flow that cannot become part of a graph: where it is, and the remedy.

    Raises:
        ControlFlowError: In place of TensorFlow's error.
    """
    try:
        yield
    except LooplabError:
        raise
    except Exception as error:
        found = _refusal(error)
        if found is None:
            raise
        raise found from error


class _LeftAsItIs(logging.Filter):
    """Records why AutoGraph did not convert a function of a step, in place of its warning.

    A function without control flow over tensors needs no conversion; for others an error gives the reason.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to pass a record on."""
        text = record.getMessage()
        if not is_within() or "AutoGraph could not transform" not in text or "KeyboardInterrupt" in text:
            return True
        function, *_, why = record.args if isinstance(record.args, tuple) else (None,)
        if (code := getattr(function, "__code__", None)) is not None:
            _causes[code] = str(why).partition(". Note that")[0]
        return False


logging.getLogger("tensorflow").addFilter(_LeftAsItIs())


def _refusal(error: Exception) -> ControlFlowError | None:
    """Returns the explanation of an error, or None if it is not about control flow."""
    first, found = cause.origin(error), cause.of(error)
    place = found.frame
    frames = [frame for frame, _ in traceback.walk_tb(first.__traceback__)]
    if _OUT_OF_SCOPE in str(first):
        what, remedy, made = _out_of_scope(str(first))
        place = place or made
    elif isinstance(first, tf.errors.OperatorNotAllowedInGraphError):
        frame = _asking(frames)
        what, remedy = _not_translated(frame)
        if place is None and frame is not None:
            place = cause.Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    elif isinstance(first, LostMask):
        what, remedy = (
            "a conditional expression loses the Keras mask of a tensor",
            "Write it as an if statement",
        )
    elif frames and _OPERATORS.search(frames[-1].f_code.co_filename):
        what, remedy = _of_operator(found.message)
        if _updates(frames):
            rest = remedy[0].lower() + remedy[1:]
            remedy = f"Gate an update with minimize(..., when=condition), without an if; otherwise {rest}"
    elif isinstance(first, TypeError | AttributeError) and "SymbolicTensor" in str(first):
        what, remedy = f"a tensor has no value yet ({found.sentence})", "Compute with tensors alone"
    else:
        return None
    before = f"{place}: " if place else ""
    return ControlFlowError(
        f"{before}Python that a tensor decides cannot become part of the graph: {what}. {remedy}; or "
        f"{_EAGERLY}."
    )


def _of_operator(message: str) -> tuple[str, str]:
    """Returns the reason why converted code fails, from TensorFlow's message, and the remedy."""
    said = " ".join(message.partition("\n\n")[0].split()).rstrip(".:")
    said = said.replace("'retval_'", "what is returned")
    remedy = next(
        (text for sign, text in _REMEDIES.items() if sign in message), "Write it with tf.where or tf.cond"
    )
    return said, remedy


def _updates(frames: list[FrameType]) -> bool:
    """Whether the innermost converted function makes an update, perhaps in one of its branches."""
    codes = [frame.f_code for frame in frames if _GENERATED in frame.f_code.co_filename][-1:]
    for code in codes:  # its branches are functions within it
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return any({"minimize", "apply_gradients"} & {*code.co_names} for code in codes)


def _out_of_scope(message: str) -> tuple[str, str, cause.Frame | None]:
    """Returns reason, remedy and line for a tensor that is used outside of the loop or branch creating it."""
    stack = [cause.Frame(file, int(line), name) for file, line, name in _MADE.findall(message)]
    made = cause.own(stack)
    where = f" ({made})" if made else ""
    return (
        f"a tensor that is created in an if, for or while{where} is used outside of it. Only values that "
        "are assigned to a name can leave it, not those in a Python list or kept by add_loss",
        "Collect tensors in a tf.TensorArray (array = array.write(i, tensor), after the loop array.stack())",
        made,
    )


def _asking(frames: list[FrameType]) -> FrameType | None:
    """Returns the innermost call of a user's function, otherwise of one outside TensorFlow and Keras."""
    own = [frame for frame in frames if _is_users(frame.f_code)]
    others = [frame for frame in frames if not _LIBRARIES.search(frame.f_code.co_filename)]
    return next(reversed(own or others), None)


def _not_translated(frame: FrameType | None) -> tuple[str, str]:
    """Returns why Python code needed the value of a tensor, and the remedy."""
    why, remedy = _why(frame)
    name = f"{frame.f_code.co_name} is not converted: " if frame is not None and why else ""
    return (
        name + why or "a library's code or an expression, not a statement, needs a tensor's value"
    ), remedy


def _is_users(code: CodeType) -> bool:
    return _GENERATED in code.co_filename or cause.is_made_in(code.co_filename)


def _why(frame: FrameType | None) -> tuple[str, str]:
    """Returns why a function is not converted, and the remedy; without a reason if it is converted."""
    remedy = "Write it as an if, for or while statement in a separate function, or with tf.where"
    if frame is None:
        return "", remedy
    code = frame.f_code
    if code.co_name in _COMPREHENSIONS:
        return "it is a comprehension", "Write a for loop"
    if _GENERATED in code.co_filename:
        return "", remedy
    if not patches.are_on():
        return f"its conversion {patches.NEEDED[:-1]}", "Use tf.cond, tf.while_loop or tf.where"
    if code in _causes:
        return _worded(_causes[code])
    if code.co_filename.startswith("<"):
        return _NO_SOURCE
    if isinstance(_static(frame), property):
        return "it is a property", "Make it a method, and call it"
    if not cause.is_made_in(code.co_filename):
        return "it is code of an installed package", "Decorate it with @tf.function"
    return (
        "it is called by a library, or by code that turns conversion off",
        "Decorate it with @tf.function",
    )


def _worded(why: str) -> tuple[str, str]:
    """Returns AutoGraph's reason for not converting a function, and the remedy."""
    if "source code" in why:
        if "lambda" in why:
            return (
                "the source code of a lambda cannot be distinguished from others on its line",
                "Make it a def",
            )
        return _NO_SOURCE
    if "mangled" in why:
        return "a name in it begins with two underscores", "Use one underscore"
    if "outside of any statement" in why:
        return "AutoGraph does not support all of its statements (such as match)", "Use if and elif"
    return f"AutoGraph's reason: {why}", "Write it in another way"


def _static(frame: FrameType) -> Any:
    """Returns the attribute of a method's class under the function's name, without binding it."""
    owner = frame.f_locals.get("self")
    kinds = [kind for kind in type(owner).__mro__ if frame.f_code.co_name in vars(kind)]
    return vars(kinds[0])[frame.f_code.co_name] if kinds else None
