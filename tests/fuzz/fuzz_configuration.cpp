// SPDX-License-Identifier: MIT
// Configurations with overrides: a resolved one resolves to itself. Lines at the start that begin with ! are overrides.
#include <optional>
#include <vector>

#include "engine/src/config/config.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace brenier;
using namespace brenier::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> overrides;
  while (text.starts_with("!")) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1);
    overrides.push_back(text.substr(1, end - 1));
    text.erase(0, end + 1);
  }
  const std::filesystem::path nowhere = "/nonexistent";
  std::optional<Config> config;
  if (!accepted([&] { config = parse_config(text, "a.toml", nowhere, overrides); })) return 0;
  const Config again = parse_config(config->resolved, "b.toml", nowhere);
  require(again.resolved == config->resolved, "the resolved configuration");
  return 0;
}
