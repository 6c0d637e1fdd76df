// SPDX-License-Identifier: MIT
// history.csv: what is read is written and read again as the same text.
#include "tests/fuzz/fuzz.hpp"
#include "tools/runs/report.hpp"

using namespace brenier;
using namespace brenier::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // With the header that it must have, so that mutations reach the rows.
  static const std::string header = app::history_text({});
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const std::string& whole : {text, header + text}) {
    accepted([&] {
      const std::string once = app::history_text(app::parse_history(whole, "history.csv"));
      require(app::history_text(app::parse_history(once, "history.csv")) == once, "the history");
    });
  }
  return 0;
}
