# SPDX-License-Identifier: MIT
"""The headers that a build needs, for a machine without packages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from gpu.process import Failed, run

PACKAGES = ("libeigen3-dev", "doctest-dev", "libtomlplusplus-dev", "nlohmann-json3-dev", "libcli11-dev")
PREFIX = re.compile(r'^set\(_IMPORT_PREFIX "/usr"\)$', re.MULTILINE)


def relocatable(text: str, depth: int) -> str:
    """A CMake file whose prefix is where it lies, `depth` folders below, instead of the system's."""
    return PREFIX.sub(
        'get_filename_component(_IMPORT_PREFIX "${CMAKE_CURRENT_LIST_DIR}' + "/.." * depth + '" ABSOLUTE)',
        text,
    )


def collect(folder: Path) -> int:
    """Copies headers and CMake files of the installed packages, with paths below /usr; their bytes. Failed where one
    is not installed."""
    size = 0
    for package in PACKAGES:
        listed = run(["dpkg", "-L", package], 60)
        if listed.status != 0:
            raise Failed(f"{package} is not installed; apt-get install {' '.join(PACKAGES)}")
        for name in listed.text.split():
            source = Path(name)
            wanted = name.startswith("/usr/include/") or source.suffix == ".cmake"
            if not wanted or "/unsupported/" in name or not source.is_file():
                continue
            inside = source.relative_to("/usr")
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".cmake":
                target.write_text(relocatable(source.read_text(), len(inside.parts) - 1))
            else:
                shutil.copyfile(source, target)
            size += target.stat().st_size
    return size
