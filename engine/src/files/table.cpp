// SPDX-License-Identifier: MIT
#include "engine/src/files/table.hpp"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/text_file.hpp"

namespace brenier {
namespace {

constexpr std::string_view kBlank = " \t\r";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

/// Fields between commas or semicolons; between blanks where a line has neither.
std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> out;
  const std::string_view strong = line.find(';') != std::string_view::npos ? ";" : ",";
  if (line.find_first_of(",;") != std::string_view::npos) {
    for (std::size_t at = 0; at <= line.size();) {
      const std::size_t end = std::min(line.find_first_of(strong, at), line.size());
      out.push_back(trimmed(line.substr(at, end - at)));
      at = end + 1;
    }
    return out;
  }
  for (std::size_t at = line.find_first_not_of(kBlank); at < line.size();) {
    const std::size_t end = std::min(line.find_first_of(kBlank, at), line.size());
    out.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(kBlank, end);
  }
  return out;
}

bool is_number(std::string_view text, double& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return !text.empty() && result.ec == std::errc() && result.ptr == text.data() + text.size();
}

}  // namespace

bool is_table(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return extension == ".csv" || extension == ".tsv" || extension == ".txt";
}

Matrix<double> read_table(const std::filesystem::path& path) {
  const std::string text = read_text_file(path, std::uint64_t{1} << 33);
  const bool utf16 = text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF");
  if (utf16 || text.find('\0') != std::string::npos) {
    throw IoError("'" + path.string() + "' is " +
                  (utf16 ? "text in UTF-16" : "no text, or text in UTF-16: it has bytes of 0") +
                  "; save it as plain text or in UTF-8");
  }
  std::string_view rest = text;
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
  std::vector<double> values;
  std::size_t columns = 0, rows = 0;
  const auto fail = [&](std::size_t line, const std::string& message) {
    throw IoError("'" + path.string() + "': line " + std::to_string(line) + message);
  };
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::vector<std::string_view> fields = fields_of(line);
    if (columns > 0 && fields.size() != columns)
      fail(number, " has " + std::to_string(fields.size()) + " numbers, the first row has " +
                       std::to_string(columns));
    std::vector<double> row(fields.size());
    std::size_t wrong = 0;
    std::string_view what;
    for (std::size_t i = 0; i < fields.size(); ++i) {
      if (is_number(fields[i], row[i])) continue;
      if (wrong++ == 0) what = fields[i];
    }
    if (wrong == fields.size() && columns == 0 && rows == 0) {  // names of the columns
      columns = fields.size();
      continue;
    }
    if (wrong > 0) fail(number, ": '" + std::string(what) + "' is no number");
    columns = fields.size();
    ++rows;
    values.insert(values.end(), row.begin(), row.end());
  }
  if (rows == 0) throw IoError("'" + path.string() + "' has no rows of numbers");
  Matrix<double> out(static_cast<Index>(rows), static_cast<Index>(columns));
  out.elements() = std::move(values);
  return out;
}

}  // namespace brenier
