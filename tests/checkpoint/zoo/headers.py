"""`arrays.safetensors` from somebody who means harm: row 33."""

import json
import os

from looplab.checkpoint import limits
from tests.checkpoint.zoo.catalogue import (
    KERNEL,
    arrays_of,
    described,
    family,
    parts,
    put,
    reheaded,
    relist,
    rewrite,
    specimen,
)


def only(path, shape, size=0):
    """Makes both files say that there is one array, of this shape."""
    put(path, {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, b"")
    rewrite(path, arrays={"a": {"shape": shape, "dtype": "float32", "sha256": "0" * 64}})


family(
    "both_files_say_{}",
    only,
    {
        "nothing_times_too_much": [2**62, 0, 2**62],
        "nothing_in_64_huge_dimensions": [2**62] * 63 + [0],
        "a_shape_whose_product_overflows": [2**62, 2**62],
    },
    33,
)


@specimen(33)
def both_files_say_a_trillion_elements(path):
    only(path, [10**12], 4 * 10**12)


@specimen(33)
def both_files_say_a_trillion_elements_and_a_sparse_file_has_them(path):
    only(path, [10**12], 4 * 10**12)
    os.truncate(arrays_of(path), arrays_of(path).stat().st_size + 4 * 10**12)


@specimen(33)
def the_header_says_another_shape_than_both_sizes_allow(path):
    described(path, shape=[3, 2])
    reheaded(path, lambda header: header[KERNEL].update(shape=[10**12]))


family(
    "the_size_of_the_header_is_{}",
    lambda path, size: put(path, *parts(path), size=size),
    {
        "2_to_the_60": 2**60,
        "all_ones": 2**64 - 1,
        "more_than_the_file": 10**6,
        "zero": 0,
        "one": 1,
    },
    33,
)


@specimen(33)
def the_header_is_beyond_the_limit_in_a_sparse_file(path):
    put(path, b"", b"", size=limits.HEADER + 1)
    os.truncate(arrays_of(path), 2 * limits.HEADER)


@specimen(33)
def the_header_has_two_hundred_thousand_arrays_that_are_not_listed(path):
    header, content = parts(path)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(content)] * 2}
    put(path, header | {str(number): empty for number in range(200_000)}, content)


family(
    "the_header_is_{}",
    lambda path, header: put(path, header, parts(path)[1]),
    {
        "no_json": b"?" * 40,
        "a_list": b"[]",
        "empty": b"{}",
        "nested": b"[" * 100_000,
        "not_utf8": b'{"\xff": 1}',
        "of_numbers": b'{"a": 1}',
        "half_a_pair": b'{"\\ud800": {}}',
    },
    33,
)
family(
    "the_offsets_{}",
    lambda path, offsets: reheaded(path, lambda header: header[KERNEL].update(data_offsets=offsets)),
    {
        "overlap": [4, 28],
        "begin_beyond_the_file": [10**6, 10**6 + 24],
        "end_beyond_the_file": [0, 10**6],
        "run_backwards": [24, 0],
        "are_negative": [-24, 0],
        "are_fractions": [0.0, 24.0],
        "overflow": [0, 2**64],
        "are_three": [0, 24, 48],
        "are_a_number": 24,
    },
    33,
)
family(
    "the_header_says_{}",
    lambda path, facts: reheaded(path, lambda header: header[KERNEL].update(facts)),
    {
        "another_shape": {"shape": [3, 2]},
        "more_dimensions": {"shape": [2, 3, 1]},
        "a_negative_shape": {"shape": [-2, -3]},
        "a_trillion_elements": {"shape": [10**12]},
        "another_dtype": {"dtype": "I32"},
        "an_unknown_dtype": {"dtype": "F33"},
        "a_dtype_of_eight_bits": {"dtype": "F8_E4M3", "shape": [24]},
        "a_dtype_of_four_bits": {"dtype": "F4", "shape": [48]},
        "a_dtype_that_steers_a_terminal": {"dtype": "\x1b[2J"},
    },
    33,
)


@specimen(33)
def the_header_has_an_array_that_is_not_listed(path):
    relist(path, lambda listed: listed.pop(KERNEL))


@specimen(33)
def the_header_has_an_empty_array_that_is_not_listed(path):
    relist(path, lambda listed: listed.pop("none"))


@specimen(33)
def an_empty_array_is_listed_that_the_header_has_not(path):
    reheaded(path, lambda header: header.pop("none"))


@specimen(33)
def the_header_has_an_array_twice(path):
    header, content = parts(path)
    again = json.dumps({KERNEL: {"dtype": "I32", "shape": [2, 3], "data_offsets": [0, 24]}})
    put(path, f"{json.dumps(header)[:-1]}, {again[1:]}".encode(), content)
