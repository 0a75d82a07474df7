"""What a disk, a copy or a person does to a file: its bytes with one mistake, or several."""

import random


def flipped(content, number):
    """The bytes with one bit flipped; `number` counts bits."""
    broken = bytearray(content)
    broken[number // 8] ^= 1 << number % 8
    return bytes(broken)


def mutations(content, count, seed=0):
    """`count` versions of these bytes, none of them as it was: bits, pieces, ends, lines."""
    drawn = random.Random(seed)
    for number in range(count):
        place = drawn.randrange(len(content))
        end = min(len(content), place + drawn.randrange(1, 9))
        kind = number % 6
        if kind in (0, 1):
            broken = flipped(content, drawn.randrange(8 * len(content)))
        elif kind == 2:
            broken = content[:place]  # cut off
        elif kind == 3:
            broken = content[:place] + content[end:]  # a piece is missing
        elif kind == 4:
            broken = content[:place] + drawn.randbytes(drawn.randrange(1, 9)) + content[place:]
        else:
            lines = content.splitlines(keepends=True)
            line = drawn.randrange(len(lines))
            change = drawn.choice([[], [lines[line]] * 2, [b"[]\n"], [b"\0" * len(lines[line])]])
            broken = b"".join([*lines[:line], *change, *lines[line + 1 :]])
        if broken != content:
            yield broken
