# SPDX-License-Identifier: MIT
"""Arrays of NumPy from what a caller has."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core import BadValue, ShapeError

Floats = NDArray[np.float64]


def numbers(x: Any, name: str = "x") -> Floats:
    """x as a C-contiguous array of doubles; without a copy where it is one, of NumPy or through DLPack.

    What doubles do not hold is refused, not left out: a mask, imaginary parts, times with their units.
    """
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    if isinstance(x, (list, tuple)) and any(isinstance(one, np.ma.MaskedArray) for one in x):
        x = np.ma.array(x)
    masked = int(np.ma.count_masked(x)) if isinstance(x, np.ma.MaskedArray) else 0
    if masked:
        raise BadValue(f"{name} is a masked array with {masked} of {x.size} values masked, which have no place here; leave their "
                       "rows out, as by numpy.ma.compress_rows(x), or give them values by x.filled(value)")
    given = np.asarray(x)
    if given.dtype.kind in "cmM":
        what = {"c": "complex numbers", "m": "lengths of time", "M": "points in time"}[given.dtype.kind]
        remedy = {"c": "x.real, or real and imaginary parts as columns", "m": "x / numpy.timedelta64(1, 's')",
                  "M": "(x - x[0]) / numpy.timedelta64(1, 's')"}[given.dtype.kind]
        raise BadValue(f"{name} has {what} ({given.dtype}); it must have real numbers: {remedy}")
    return np.asarray(given, dtype=np.float64, order="C")


def whole(given: Any, name: str, least: int = 0) -> int:
    """A whole number from `least` on, of 64 bits with a sign."""
    try:
        count = least - 1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        count = least - 1
    if count < least:
        raise BadValue(f"{name} = {given!r}; it must be a whole number, at least {least}")
    if count > 2**63 - 1:
        raise BadValue(f"{name} = {given!r}; it must be at most {2**63 - 1}")
    return count


def points(x: Any, name: str = "x") -> Floats:
    """The same with the shape (N, d); (N,) is N points on the line."""
    x = numbers(x, name)
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise ShapeError(f"{name} has the shape {x.shape}; it must be (N, d), or (N,) in one dimension")
    return x


def vector(x: Any, name: str, length: int | None = None) -> Floats:
    """Numbers (N,)."""
    x = numbers(x, name)
    if x.ndim != 1 or (length is not None and len(x) != length):
        raise ShapeError(f"{name} has the shape {x.shape}; it must be ({'N' if length is None else length},)")
    return x


def weights(x: Any, name: str, length: int) -> Floats | None:
    """Weights (length,) or None for equal ones."""
    return None if x is None else vector(x, name, length)
