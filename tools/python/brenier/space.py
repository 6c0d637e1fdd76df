# SPDX-License-Identifier: MIT
"""What densities, networks and runs have in common."""

from __future__ import annotations

from typing import Any


class OnSpace:
    """Something on R^d, over an object of the core."""

    _core: Any

    @property
    def dim(self) -> int:
        """d."""
        return int(self._core.dim())
