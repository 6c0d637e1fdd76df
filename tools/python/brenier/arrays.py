# SPDX-License-Identifier: MIT
"""Arrays of NumPy from what a caller has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core import ShapeError

Floats = NDArray[np.float64]


def numbers(x: Any) -> Floats:
    """x as a C-contiguous array of doubles; without a copy where it is one, of NumPy or through DLPack."""
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    return np.asarray(x, dtype=np.float64, order="C")


def points(x: Any, name: str = "x") -> Floats:
    """The same with the shape (N, d); (N,) is N points on the line."""
    x = numbers(x)
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise ShapeError(f"{name} has the shape {x.shape}; it must be (N, d), or (N,) in one dimension")
    return x


def vector(x: Any, name: str, length: int | None = None) -> Floats:
    """Numbers (N,)."""
    x = numbers(x)
    if x.ndim != 1 or (length is not None and len(x) != length):
        raise ShapeError(f"{name} has the shape {x.shape}; it must be ({'N' if length is None else length},)")
    return x


def weights(x: Any, name: str, length: int) -> Floats | None:
    """Weights (length,) or None for equal ones."""
    return None if x is None else vector(x, name, length)
