"""Arguments that several tools take."""

from __future__ import annotations

import argparse


def parse_input_size(text: str) -> tuple[int, int]:
    """ "1025x2049" → (1025, 2049), height first.

    Raises:
        argparse.ArgumentTypeError: anything but two positive numbers.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give height and width in pixels, such as 1025x2049"
        )
    height, width = map(int, sides)
    return height, width
