// SPDX-License-Identifier: MIT
// history.csv: what is read is written and read again as the same text.
#include <algorithm>

#include "tests/fuzz/fuzz.hpp"
#include "tools/runs/report.hpp"

using namespace brenier;
using namespace brenier::fuzz;

namespace {

constexpr int kMostRows =
    3;  // what can be wrong with more rows can be wrong with three, in a fraction of the time

/// The first lines of numbers, with as many fields as `header` has: a column that is added makes no input worthless.
std::string filled_up(const std::string& text, const std::string& header) {
  const auto commas = static_cast<std::size_t>(std::count(header.begin(), header.end(), ','));
  static const std::string zeros = [&] {
    std::string out;
    for (std::size_t n = 0; n < commas; ++n) out += ",0";
    return out;
  }();
  std::string out;
  std::size_t begin = 0;
  for (int row = 0; row < kMostRows && begin < text.size(); ++row) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const auto there =
        static_cast<std::size_t>(std::count(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                            text.begin() + static_cast<std::ptrdiff_t>(end), ','));
    out.append(text, begin, end - begin).append(zeros, 0, 2 * (commas - std::min(commas, there))) += '\n';
    begin = end + 1;
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // With the header that it must have where it has none, so that mutations reach the rows.
  static const std::string header = app::history_text({});
  std::string text(reinterpret_cast<const char*>(data), size);
  if (!text.starts_with(header.substr(0, 3)))
    text = header + (size % 4 != 0 ? filled_up(text, header) : text);
  accepted([&] {
    const std::string once = app::history_text(app::parse_history(text, "history.csv"));
    require(app::history_text(app::parse_history(once, "history.csv")) == once, "the history");
  });
  return 0;
}
