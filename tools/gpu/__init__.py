# SPDX-License-Identifier: MIT
"""The parts of tools/gpu_pack and tools/gpu_check. The standard library only: the scripts travel with the programs."""
