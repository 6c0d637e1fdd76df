// SPDX-License-Identifier: MIT
#include "engine/src/files/table.hpp"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/text_file.hpp"

namespace brenier {
namespace {

constexpr std::string_view kBlank = " \t\r";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

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
  const auto read = [&](std::string_view number) {
    const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
    return !number.empty() && result.ec == std::errc() && result.ptr == number.data() + number.size();
  };
  if (read(text)) return true;
  // Fortran's exponents of double precision.
  const std::size_t at = text.find_first_of("dD");
  if (at == std::string_view::npos || at == 0 || !(is_digit(text[at - 1]) || text[at - 1] == '.'))
    return false;
  std::string number(text);
  number[at] = 'e';
  return read(number);
}

std::string_view unquoted(std::string_view text) {
  const bool quoted =
      text.size() >= 2 && text.front() == text.back() && (text.front() == '"' || text.front() == '\'');
  return quoted ? trimmed(text.substr(1, text.size() - 2)) : text;
}

bool is_among(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

/// What programs write where there is no value.
bool is_missing(std::string_view field) {
  std::string word(unquoted(field));
  std::transform(word.begin(), word.end(), word.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return is_among(word, {"", "-", "--", "---", ".", "..", "?", "*", "na", "n/a", "<na>", "nan", "nat", "null",
                         "nil", "none", "missing", "undefined"});
}

/// Whether a line begins with an error of a spreadsheet, which is no remark.
bool is_spreadsheet_error(std::string_view line) {
  for (const std::string_view word : {"#N/A", "#DIV/0!", "#VALUE!", "#NUM!", "#REF!", "#NAME?", "#NULL!"}) {
    if (line.starts_with(word)) return true;
  }
  return false;
}

/// Whether a field that is no number is meant for one, as 1e999 and 1,5 are; names of columns are not.
bool looks_like_number(std::string_view field) {
  field = unquoted(field);
  if (field.find_first_not_of("0123456789+-.,eEdD") != std::string_view::npos) return false;
  const bool begins = !field.empty() && (is_digit(field[0]) || field.find_first_of("+-.") == 0);
  return begins && (is_digit(field.back()) || (field.back() == '.' && field.size() > 1));
}

/// From field `from` on 0, 1, 2, ..., which pandas writes for the names of columns that have none.
bool counts_columns(const std::vector<std::string_view>& fields, std::size_t from = 0) {
  for (std::size_t i = from; i < fields.size(); ++i) {
    if (unquoted(fields[i]) != std::to_string(i - from)) return false;
  }
  return fields.size() > from;
}

/// Whether a first line names columns: false where it is a row of numbers, an error by `fail` where it is neither.
template <class Fail>
bool names_columns(const std::vector<std::string_view>& fields, const Fail& fail) {
  double value = 0;
  std::size_t numbers = 0, missing = 0, alike = 0;
  std::string_view what;
  for (const std::string_view field : fields) {
    if (is_number(field, value)) {
      ++numbers;
      continue;
    }
    if (what.empty()) what = field;
    missing += is_missing(field);
    alike += looks_like_number(field);
  }
  if (numbers == fields.size()) return false;
  const bool without_name = fields.size() > 1 && is_among(unquoted(fields[0]), {"", "Unnamed: 0"});
  const bool names = numbers == 0 && missing < fields.size() && alike == 0;
  if (without_name && (names || counts_columns(fields, 1)))
    fail(
        ": the first column has no name, as the index that pandas writes beside the columns; write the file "
        "without it, to_csv(index=False), or give the column a name where it is a coordinate");
  if (!names) fail(": '" + std::string(what) + "' is no number");
  return true;
}

/// What of the rows below a first row 0, 1, ..., d - 1 is written with a point or an exponent.
struct Written {
  bool any = false, all = true;

  void add(const std::vector<std::string_view>& fields) {
    for (const std::string_view field : fields) {
      const bool real = field.find_first_of(".eEdD") != std::string_view::npos;
      any = any || real;
      all = all && real;
    }
  }
};

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
  std::size_t counted = 0;  // a first row 0, 1, ..., d - 1: its line
  Written below;
  const auto fail = [&](std::size_t line, const std::string& message) {
    throw IoError("'" + path.string() + "': line " + std::to_string(line) + message);
  };
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (is_spreadsheet_error(trimmed(line)))
      fail(number, ": '" + std::string(fields_of(trimmed(line))[0]) + "' is no number");
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::vector<std::string_view> fields = fields_of(line);
    if (columns == 0) {
      columns = fields.size();
      if (names_columns(fields, [&](const std::string& message) { fail(number, message); })) continue;
      if (counts_columns(fields)) counted = number;
    } else if (counted > 0) {
      below.add(fields);
    }
    if (fields.size() != columns)
      fail(number, " has " + std::to_string(fields.size()) + " numbers, the first row has " +
                       std::to_string(columns));
    for (const std::string_view field : fields) {
      double value = 0;
      if (!is_number(field, value)) fail(number, ": '" + std::string(field) + "' is no number");
      values.push_back(value);
    }
    ++rows;
  }
  if (rows == 0) throw IoError("'" + path.string() + "' has no rows of numbers");
  // On a line numbers with and without a point are as common as a first one of 0.
  if (counted > 0 && rows > 1 && (columns == 1 ? below.all : below.any)) {
    const std::string last = columns == 1   ? ""
                             : columns == 2 ? ", 1"
                                            : ", ..., " + std::to_string(columns - 1);
    fail(counted, " is 0" + last +
                      ", which may be a point or, as pandas writes them, numbers of columns without names: "
                      "put a # before names, write a point as 0.0");
  }
  Matrix<double> out(static_cast<Index>(rows), static_cast<Index>(columns));
  out.elements() = std::move(values);
  return out;
}

}  // namespace brenier
