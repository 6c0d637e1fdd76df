# SPDX-License-Identifier: MIT
"""Arguments that the programs of this folder have in common."""

from __future__ import annotations

import argparse


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the text of a module as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_measurement(parser: argparse.ArgumentParser, seconds: float) -> None:
    """What is measured, and for how long: `seconds` unless told otherwise."""
    parser.add_argument("--hidden", default="100,20")
    parser.add_argument("--dtype", choices=("float", "double"), default="float")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=seconds, help="for each form and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", help="of PyTorch, comma-separated; default: all but the slowest to compile")
