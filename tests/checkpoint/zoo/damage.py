"""What disks, copies and accidents do: rows 17, 18 and 26."""

import json

from tests.checkpoint.zoo.catalogue import (
    KERNEL,
    OTHER,
    arrays_of,
    described,
    family,
    manifest_of,
    reheaded,
    reseal,
    rewrite,
    specimen,
)


@specimen(17)
def one_bit_of_an_array_is_another(path):
    content = bytearray(arrays_of(path).read_bytes())
    content[-3] ^= 1
    arrays_of(path).write_bytes(content)


@specimen(17)
def two_arrays_have_changed_places(path):
    def swap(header):
        header[KERNEL], header[OTHER] = header[OTHER], header[KERNEL]

    reheaded(path, swap)


@specimen(17)
def a_digest_is_that_of_another_array(path):
    described(path, sha256=json.loads(manifest_of(path).read_text())["arrays"][OTHER]["sha256"])


@specimen(17)
def a_digest_is_missing(path):
    described(path, sha256=...)


@specimen(17)
def it_is_of_another_step_than_its_folder(path):
    rewrite(path, step=7)


def shorten(file, part):
    content = file.read_bytes()
    file.write_bytes(content[: {"nothing": 0, "half": len(content) // 2, "all_but_two_bytes": -2}[part]])


PARTS = {part: part for part in ("nothing", "half", "all_but_two_bytes")}
family("of_the_arrays_is_left_{}", lambda path, part: shorten(arrays_of(path), part), PARTS, 18)
family("of_the_manifest_is_left_{}", lambda path, part: shorten(manifest_of(path), part), PARTS, 18)


@specimen(18)
def the_arrays_have_a_byte_too_many(path):
    with arrays_of(path).open("ab") as file:
        file.write(b"?")


@specimen(18)
def the_arrays_have_less_than_the_size_of_a_header(path):
    arrays_of(path).write_bytes(b"1234")


@specimen(18)
def there_are_no_arrays(path):
    arrays_of(path).unlink()


@specimen(18)
def there_is_no_manifest(path):
    manifest_of(path).unlink()


@specimen(18)
def there_is_nothing(path):
    arrays_of(path).unlink()
    manifest_of(path).unlink()


@specimen(18)
def the_folder_is_a_file(path):
    there_is_nothing(path)
    path.rmdir()
    path.write_bytes(b"")


@specimen(26)
def the_format_is_newer(path):
    rewrite(path, format_version=99)


@specimen(26)
def the_format_is_newer_and_nothing_else_is_as_it_was(path):
    reseal(path, '{"format_version": 3}')


def spoil(path, change):
    """Changes the text of the manifest, of which the digest knows nothing."""
    text = manifest_of(path).read_text()
    assert change(text) != text
    manifest_of(path).write_text(change(text))


# What a disk does to a manifest must not make it pass as one of version 1, which had no digest.
family(
    "of_the_manifest_{}",
    spoil,
    {
        "a_digit_is_another": lambda text: text.replace('"step": 8', '"step": 9', 1),
        "a_digit_of_its_digest_is_another": lambda text: text[:-5] + chr(ord(text[-5]) ^ 1) + text[-4:],
        "the_name_of_its_digest_is_another": lambda text: text[:-90] + text[-90:].replace("sha256", "sha257"),
        "a_space_is_a_tab": lambda text: text.replace(" ", "\t", 1),
        "the_version_is_1": lambda text: text.replace('"format_version": 2', '"format_version": 1'),
        "the_version_is_3": lambda text: text.replace('"format_version": 2', '"format_version": 3'),
        "the_version_is_1_and_its_digest_has_another_name": lambda text: (
            text[:-90].replace('"format_version": 2', '"format_version": 1')
            + text[-90:].replace("sha256", "sha257")
        ),
        "the_digest_is_gone": lambda text: text[: text.rindex(",")] + "\n}\n",
    },
    17,
    18,
    26,
)


family(
    "the_format_version_is_{}",
    lambda path, value: rewrite(path, format_version=value),
    {
        "missing": ...,
        "null": None,
        "zero": 0,
        "true": True,
        "a_text": "1",
        "a_fraction": 1.0,
        "not_a_number": float("nan"),
        "beyond_64_bits": 2**64,
    },
    26,
)
