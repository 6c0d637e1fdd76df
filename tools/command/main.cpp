// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <iostream>

#include "tools/command/commands.hpp"

int main(int argc, char** argv) {
  return brenier::app::run_command_line(argc, argv, std::cout, std::cerr, ::isatty(1) == 1);
}
