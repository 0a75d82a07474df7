"""Seeded random numbers that are the same in XLA as without it.

`tf.random.stateless_*`, which Keras uses, choose their generator when they run: Philox (Salmon et al. 2011)
on CPU and GPU, another one in XLA. Even if both use Philox, their integers are the same, but XLA makes other
floating-point numbers of them. So the same seed would give other dropout masks, and the execution mode would
change the result of a step. Here XLA converts Philox' integers as TensorFlow's own kernels do
(`core/lib/random/random_distributions.h`); Philox is also faster than XLA's own generator on a CPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2 as kernels
from tensorflow.python.ops import random_ops_util

from looplab.compat import patches

# Operations that draw, except uniform and normal numbers and integers, draw other numbers in XLA.
_DRAWS = re.compile("Random|TruncatedNormal|Multinomial|Shuffle|FractionalMaxPool")
_SAME = re.compile("StatelessRandom(Uniform|Normal|UniformInt|UniformFullInt|Get.*)(V[23])?$")

_CHOICE = "tensorflow.python.ops.random_ops_util.get_key_counter_alg"
_UNIFORM = "tensorflow.python.ops.gen_stateless_random_ops_v2.stateless_random_uniform_v2"
_NORMAL = "tensorflow.python.ops.gen_stateless_random_ops_v2.stateless_random_normal_v2"

_PHILOX = 1
# The type of the bits, the number of fraction bits, and the bits of 1.0.
_BITS = {
    tf.float16: (tf.uint16, 10, 0x3C00),
    tf.bfloat16: (tf.uint16, 7, 0x3F80),
    tf.float32: (tf.uint32, 23, 0x3F800000),
    tf.float64: (tf.uint64, 52, 0x3FF0000000000000),
}


def others_in_xla(kinds: Iterable[str]) -> list[str]:
    """Returns the types of operations that still draw other random numbers in XLA."""
    same = _SAME.match if patches.are_on() else lambda kind: None
    return sorted({kind for kind in kinds if _DRAWS.search(kind) and not same(kind)})


@contextmanager
def as_outside_xla() -> Iterator[None]:
    """Makes XLA draw the kernels' uniform and normal numbers in a trace within the block.

    Other distributions (truncated normal, gamma) keep XLA's own numbers. The change is global to the process
    within the block; blocks may be nested, and used by several threads. With `LOOPLAB_PATCHES=off` all
    distributions keep XLA's own numbers.
    """
    with (
        patches.patched(_CHOICE, random_ops_util, _choosing_philox),
        patches.patched(_UNIFORM, kernels, partial(_as_kernel, _uniform)),
        patches.patched(_NORMAL, kernels, partial(_as_kernel, _normal)),
    ):
        yield


def _choosing_philox(chosen: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a replacement of TensorFlow's choice of a generator, for callers that choose none."""

    def philox(seed: Any, algorithm: Any) -> Any:
        return chosen(seed, "philox" if algorithm in (None, "auto_select") else algorithm)

    return philox


def _as_kernel(made_of: Callable[..., Any], operation: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a replacement of an operation that draws with Philox, in a type of known bits."""

    def draw(shape: Any, key: Any, counter: Any, alg: Any, dtype: Any = tf.float32, name: Any = None) -> Any:
        kind = tf.as_dtype(dtype)
        if alg != _PHILOX or kind not in _BITS:
            return operation(shape=shape, key=key, counter=counter, alg=alg, dtype=dtype, name=name)

        def integers(count: Any) -> tf.Tensor:
            return kernels.stateless_random_uniform_full_int_v2(
                count, key=key, counter=counter, alg=alg, dtype=tf.uint32
            )

        return made_of(integers, tf.convert_to_tensor(shape, tf.int32), kind)

    return draw


def _uniform(integers: Callable[[Any], tf.Tensor], shape: tf.Tensor, kind: tf.DType) -> tf.Tensor:
    return tf.reshape(_fractions(integers, tf.reduce_prod(shape), kind), shape)


def _normal(integers: Callable[[Any], tf.Tensor], shape: tf.Tensor, kind: tf.DType) -> tf.Tensor:
    """Applies Box and Muller (1958) to pairs, in float32 for smaller types, as the kernels do."""
    size, wide = tf.reduce_prod(shape), tf.float64 if kind == tf.float64 else tf.float32
    pairs = tf.reshape(_fractions(integers, (size + 1) // 2 * 2, wide), [-1, 2])
    radius, angle = tf.unstack(pairs, axis=1)
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(radius, 1e-7)))
    angle *= 2.0 * math.pi
    both = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], axis=1)
    return tf.cast(tf.reshape(tf.reshape(both, [-1])[:size], shape), kind)


def _fractions(integers: Callable[[Any], tf.Tensor], count: Any, kind: tf.DType) -> tf.Tensor:
    """Returns numbers from 0 to 1, shape `[count]`: the bits are the fraction of a number from 1 to 2."""
    bits, fraction, one = _BITS[kind]
    if kind == tf.float64:
        halves = tf.cast(tf.reshape(integers([2 * count]), [-1, 2]), tf.uint64)
        whole = tf.bitwise.bitwise_or(tf.bitwise.left_shift(halves[:, 0], tf.cast(32, bits)), halves[:, 1])
    else:
        whole = integers([count])
    low = tf.cast(tf.bitwise.bitwise_and(whole, tf.cast((1 << fraction) - 1, whole.dtype)), bits)
    return tf.bitcast(tf.bitwise.bitwise_or(low, tf.cast(one, bits)), kind) - tf.cast(1, kind)
