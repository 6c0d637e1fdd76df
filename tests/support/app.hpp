// SPDX-License-Identifier: MIT
// A flow that takes milliseconds, and helpers for tests of the command.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

#include "engine/src/config/config.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tools/command/commands.hpp"

namespace brenier::test {

/// A flow that takes milliseconds: 37 particles, 5 steps.
inline const std::string kTiny = R"(seed = 3
precision = "double"
[cloud]
density = "barenblatt"
time = 1e-3
particles = 37
[[functional]]
term = "porous_medium"
m = 2
[flow]
tau = 1e-3
steps = 5
[network]
hidden = [7, 5]
[inner]
iterations = 23
rate = 1e-2
solver = "adam"
accept = 1
[held_out]
particles = 101
[output]
every = 2
)";

inline Config tiny(const std::vector<std::string>& overrides = {}) {
  return parse_config(kTiny, "tiny.toml", ".", overrides);
}

/// kTiny with one piece of text replaced.
inline std::string tiny_with(const std::string& from, const std::string& to) {
  std::string text = kTiny;
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// What a command left.
struct Output {
  int code = 0;
  std::string out, err;
};

/// Runs the command line.
inline Output command(std::vector<std::string> words) {
  words.insert(words.begin(), "brenier");
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out, err;
  Output result;
  result.code = app::run_command_line(static_cast<int>(argv.size()), argv.data(), out, err);
  result.out = out.str();
  result.err = err.str();
  return result;
}

/// The message has every piece.
inline void check_contains(const std::string& message, std::initializer_list<const char*> pieces) {
  CAPTURE(message);
  for (const char* piece : pieces) {
    CAPTURE(piece);
    CHECK(message.find(piece) != std::string::npos);
  }
}

}  // namespace brenier::test
