#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a program of MPI under valgrind: what is lost or wrongly read with the library on the stack is an error. MPI loses memory
of its own, which is not asked about.

    check_valgrind_mpi.py MPIEXEC VALGRIND PROGRAM
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    mpiexec, valgrind, program = sys.argv[1:]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
                   "OMPI_MCA_hwloc_base_binding_policy": "none"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([mpiexec, "-n", "2", valgrind, "--leak-check=full", "--num-callers=40",
                               "--errors-for-leak-kinds=definite,indirect,possible", f"--log-file={folder}/%p.log", program],
                              env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500)
        logs = [log.read_text() for log in sorted(Path(folder).glob("*.log"))]
    failed = done.returncode != 0 or len(logs) != 2
    contexts = 0
    for log in logs:
        failed |= "ERROR SUMMARY" not in log
        # One context a paragraph, whose lines begin with ==PID==.
        for context in re.split(r"\n==\d+== *\n", log):
            contexts += "   by 0x" in context
            if "   by 0x" in context and re.search(r"0x[0-9A-F]+: [^(]*\bbrenier", context):
                failed = True
                print(context)
    print(f"{done.stdout}exit code {done.returncode}, {len(logs)} processes, {contexts} findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
