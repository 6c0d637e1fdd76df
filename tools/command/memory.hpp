// SPDX-License-Identifier: MIT
#pragma once

namespace brenier::app {

/// Where a program with memory.cpp begins: from here on an allocation that fails is OutOfMemory with its size, and where
/// nothing may catch that, the last words of the process, with the exit status of bad input and not an abort.
void watch_memory();

}  // namespace brenier::app
