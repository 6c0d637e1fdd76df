# SPDX-License-Identifier: MIT
"""A folder for many small runs: in memory where the system has such a file system, since a disk that others use takes a
tenth of a second for each fsync."""

from __future__ import annotations

import os
import tempfile


def scratch(prefix: str) -> tempfile.TemporaryDirectory:
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=memory if os.access(memory, os.W_OK | os.X_OK) else None)
