// SPDX-License-Identifier: MIT
// history.csv: what is read is written and read again as the same text.
#include <algorithm>

#include "tests/fuzz/fuzz.hpp"
#include "tools/runs/report.hpp"

using namespace brenier;
using namespace brenier::fuzz;

namespace {

/// Lines of numbers, with as many fields as `header` has where `fill` asks for that: a column that is added makes no input
/// worthless.
std::string filled_up(const std::string& text, const std::string& header, bool fill) {
  if (!fill) return text;
  const auto commas = std::count(header.begin(), header.end(), ',');
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    out += line;
    for (auto n = std::count(line.begin(), line.end(), ','); n < commas; ++n) out += ",0";
    out += '\n';
    begin = end + 1;
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // With the header that it must have where it has none, so that mutations reach the rows.
  static const std::string header = app::history_text({});
  std::string text(reinterpret_cast<const char*>(data), size);
  if (!text.starts_with(header.substr(0, 3))) text = header + filled_up(text, header, size % 4 != 0);
  accepted([&] {
    const std::string once = app::history_text(app::parse_history(text, "history.csv"));
    require(app::history_text(app::parse_history(once, "history.csv")) == once, "the history");
  });
  return 0;
}
