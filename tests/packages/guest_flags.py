#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks how the library is compiled inside a host that sets no build type, and flags that the library cannot live with.

    guest_flags.py CMAKE CXX SOURCE FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    cmake, cxx, source, folder = sys.argv[1:]
    command = [cmake, "-S", f"{source}/tests/packages/consume_subdir", "-B", folder, f"-DSOURCE={source}",
               f"-DCMAKE_CXX_COMPILER={cxx}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
               "-DCMAKE_CXX_FLAGS=-ffast-math -fno-exceptions -Werror"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    commands = {Path(entry["file"]).name: entry["command"].split()
                for entry in json.loads((Path(folder) / "compile_commands.json").read_text(encoding="utf-8"))}
    failures = []
    # Sources that are compiled alone, and those that are compiled together.
    levels = {"inner.cpp": "-O2", "fit.cpp": "-O2", "isa_sse2.cpp": "-O3"}
    together = [name for name in commands if name.startswith("unity_")]
    if not together:
        failures.append("no sources are compiled together: where are the others?")
    for name, level in (levels | dict.fromkeys(together, "-O2")).items():
        words = commands[name]
        last = [word for word in words if word.startswith("-O")][-1:]
        if last != [level]:
            failures.append(f"{name}: {last}, not {level}")
        for host, own in {"-ffast-math": "-fno-fast-math", "-fno-exceptions": "-fexceptions", "-Werror": "-Wno-error"}.items():
            if own not in words or words.index(own) < words.index(host):
                failures.append(f"{name}: {host} of the host is not taken back by {own}")
    if any(word in commands["embed.cpp"] for word in ("-fno-fast-math", "-fexceptions", "-O2")):
        failures.append("embed.cpp: the library's flags reach the host")
    print("\n".join(failures) or "the library has its own flags, the host has its own")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
