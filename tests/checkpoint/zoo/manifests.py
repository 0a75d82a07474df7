"""Manifests from somebody who means harm: row 33."""

import os
import pickle

from looplab.checkpoint import limits
from tests.checkpoint.zoo.catalogue import (
    described,
    family,
    manifest_of,
    named,
    reseal,
    rewrite,
    specimen,
    unsealed,
)
from tests.checkpoint.zoo.files import Canary

NAN, INFINITE = float("nan"), float("inf")


@specimen(33)
def the_manifest_is_not_utf8(path):
    manifest_of(path).write_bytes(manifest_of(path).read_bytes().replace(b"val_loss", b"val_\xff\xfe"))


@specimen(33)
def the_manifest_is_utf16(path):
    manifest_of(path).write_text(manifest_of(path).read_text(), encoding="utf-16")


@specimen(33)
def the_manifest_is_a_list(path):
    manifest_of(path).write_text("[1, 2]")


@specimen(33)
def the_manifest_is_a_pickle(path):
    manifest_of(path).write_bytes(pickle.dumps(Canary()))


@specimen(33)
def the_manifest_is_of_two_gigabytes(path):
    os.truncate(manifest_of(path), 2**31)


@specimen(33)
def the_manifest_is_nested_a_hundred_thousand_deep(path):
    manifest_of(path).write_text("[" * 100_000 + "]" * 100_000)


def nest(path, levels):
    inner = '{"a":' * levels + "1" + "}" * levels
    reseal(path, f'{{"extra": {inner},' + unsealed(path)[1:])


family("it_is_nested_{}_deep", nest, {"101": 101, "900": 900, "20_thousand": 20_000}, 33)


def fill(path, lists):
    reseal(path, '{"values": [' + "[]," * lists + "[]]}")


@specimen(33)
def it_has_as_many_keys_as_are_read(path):
    keys = ",".join(f'"{number:x}":""' for number in range(limits.VALUES - 10))
    reseal(path, f'{{"values": {{{keys}}}}}')


MANY = {"ten_million": 10_000_000, "as_many_as_are_read": limits.VALUES // 2 - 10}
family("it_has_empty_lists_{}", fill, MANY, 33)


@specimen(33)
def an_object_has_a_key_twice(path):
    reseal(path, '{"step": 8,' + unsealed(path)[1:])


@specimen(33)
def an_object_has_the_last_of_a_hundred_thousand_keys_twice(path):
    keys = [f'"{number}": 1' for number in [*range(100_000), 99_999]]
    reseal(path, "{" + ", ".join(keys) + "}")


@specimen(33)
def the_step_has_ten_thousand_digits(path):
    reseal(path, unsealed(path).replace('"step": 8', f'"step": {"8" * 10_000}', 1))


family(
    "the_step_is_{}",
    lambda path, value: rewrite(path, step=value),
    {
        "missing": ...,
        "null": None,
        "true": True,
        "negative": -1,
        "a_text": "8",
        "a_fraction": 8.0,
        "not_a_number": NAN,
        "infinite": INFINITE,
        "beyond_64_bits": 2**63,
    },
    33,
)
family(
    "its_{}",
    lambda path, entries: rewrite(path, **entries),
    {
        "arrays_are_missing": {"arrays": ...},
        "arrays_are_a_list": {"arrays": []},
        "arrays_are_numbers": {"arrays": {"x": 1}},
        "arrays_are_not_described": {"arrays": {"x": {}}},
        "values_are_a_list": {"values": []},
        "values_are_null": {"values": None},
        "progress_is_a_list": {"values": {"progress": []}},
        "best_evaluations_are_an_object": {"values": {"progress": {"top": {}}}},
        "best_evaluation_is_a_number": {"values": {"progress": {"top": [1]}}},
        "best_evaluation_has_a_text_for_a_step": {"values": {"progress": {"top": [{"step": "8"}]}}},
        "logs_are_a_number": {"logs": 1},
        "log_has_a_negative_size": {"logs": {"metrics.jsonl": -1}},
        "log_has_a_size_beyond_64_bits": {"logs": {"metrics.jsonl": 2**80}},
        "log_has_a_text_for_a_size": {"logs": {"metrics.jsonl": "1"}},
        "logs_have_a_number_for_a_digest": {"log_digests": {"metrics.jsonl": 1}},
    },
    33,
)
family(
    "a_listed_shape_is_{}",
    lambda path, value: described(path, shape=value),
    {
        "missing": ...,
        "a_text": "23",
        "a_number": 6,
        "nested": [[2], 3],
        "negative": [-2, -3],
        "of_fractions": [2.0, 3.0],
        "of_texts": ["2", "3"],
        "of_true": [True, 6],
        "not_a_number": [NAN, 3],
        "infinite": [INFINITE],
        "of_a_trillion": [10**12],
        "beyond_64_bits": [2**64, 2**64],
        "overflowing": [2**63 - 1] * 64,
        "of_a_million_dimensions": [1] * 10**6,
        "of_a_million_huge_dimensions": [2**62] * 10**6,
    },
    33,
)
family(
    "a_listed_dtype_is_{}",
    lambda path, value: described(path, dtype=value),
    {
        "missing": ...,
        "null": None,
        "a_list": ["float32"],
        "an_object": "object",
        "unknown": "float33",
        "of_eight_bits": "float8_e4m3fn",
        "what_steers_a_terminal": "\x1b[2J\x1b]0;mine\x07",
        "of_ten_megabytes": "f" * 10**7,
    },
    33,
)
family(
    "the_name_of_an_array_{}",
    named,
    {
        "leads_out": "../../x",
        "leads_out_from_within": "models/../../x",
        "is_absolute": "/etc/passwd",
        "is_empty": "",
        "has_a_nul": "models/\0",
        "has_ten_million_characters": "x" * 10**7,
        "is_half_a_pair": "\ud800",
    },
    33,
)
