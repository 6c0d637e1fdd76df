// SPDX-License-Identifier: MIT
#include "engine/src/config/reader.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <string_view>
#include <utility>

#include "kernels/base/nearest_name.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

/// A value in TOML on one line; strings escaped, numbers exact.
std::string render(const toml::node& node) {
  if (const auto* number = node.as_floating_point()) return exact_text(number->get());
  if (const auto* array = node.as_array()) {
    std::string out;
    for (const toml::node& item : *array) out += (out.empty() ? "" : ", ") + render(item);
    return "[" + out + "]";
  }
  std::ostringstream out;
  out.exceptions(std::ios::badbit);
  if (const auto* table = node.as_table()) {
    std::string inside;
    for (const auto& [key, value] : *table) {
      inside += (inside.empty() ? "" : ", ") + std::string(key.str()) + " = " + render(value);
    }
    return "{ " + inside + " }";
  }
  out << toml::default_formatter(node, toml::format_flags::none);
  return out.str();
}

std::optional<double> as_number(const toml::node& node) {
  if (const auto* integer = node.as_integer()) return static_cast<double>(integer->get());
  if (const auto* real = node.as_floating_point()) return real->get();
  return std::nullopt;
}

std::string type_name(const toml::node& node) {
  if (node.is_string()) return "a text";
  if (node.is_integer()) return "a whole number";
  if (node.is_floating_point()) return "a number with a fraction";
  if (node.is_boolean()) return "true or false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or a time";
}

constexpr std::size_t kMostText = 8'000'000;  // bytes of a configuration
constexpr int kDeepest = 60;                  // nested lists and tables, parts of a dotted key

/// Whether a table header, whose first bracket is at `at`, goes on with what its parser takes for granted.
bool header_has_key(std::string_view text, std::size_t at) {
  std::size_t next = at + 1;
  if (next < text.size() && text[next] == '[') ++next;
  while (next < text.size() && (text[next] == ' ' || text[next] == '\t')) ++next;
  if (next >= text.size()) return true;  // the parser says that it does not end
  const char c = text[next];
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  const bool apart = c == '[' && next > at + 1 && text[at + 1] != '[';  // the parser has words for that
  return letter || apart || std::string_view("_-\"']").find(c) != std::string_view::npos;
}

/// Walks through TOML before its parser does, which recurses with the depth of a document (its destructor too), and
/// takes control characters, letters outside of ASCII, headers without a key and brackets that close no list where there
/// can be none. Returns what is wrong, with the line in front; empty where nothing is.
std::string too_much(std::string_view text) {
  if (text.size() > kMostText)
    return std::to_string(text.size()) + " bytes; a configuration has at most " + std::to_string(kMostText);
  std::string open;  // the brackets that are
  int dots = 0;
  std::size_t line = 1;
  bool starts = true;  // nothing but blanks on the line so far
  bool word = false;   // within a word, quotes and brackets are letters, as in /data/o'neil
  const auto found = [&](const std::string& what) { return std::to_string(line) + ": " + what; };
  for (std::size_t i = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c == '"' || c == '\'') && !word) {
      const std::string three(3, c);
      const bool block = text.substr(i, 3) == three;
      std::size_t end = i + (block ? 3 : 1);
      for (; end < text.size(); ++end) {
        if (text[end] == '\n' && !block) break;  // the parser says that it does not end
        if (text[end] == '\n') ++line;
        if (c == '"' && text[end] == '\\') {
          ++end;
        } else if (block ? text.substr(end, 3) == three : text[end] == c) {
          end += block ? 2 : 0;
          break;
        }
      }
      starts = end < text.size() && text[end] == '\n';
      if (starts) ++line;
      word = !starts;
      i = end;
      continue;
    }
    if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
      continue;
    }
    if (c == '\n') ++line;
    if ((c >= 0 && c < ' ' && c != '\t' && c != '\n' && c != '\r') || c == 0x7f)
      return found("a control character, with the number " + std::to_string(int{c}));
    if (c == '[' && starts && open.empty() && !header_has_key(text, i))
      return found("the name of a table must follow its bracket");
    starts = c == '\n' || (starts && (c == ' ' || c == '\t' || c == '\r'));
    if (static_cast<unsigned char>(c) >= 0x80) return found("a letter outside of ASCII must be in quotes");
    const bool opens = !word && (c == '[' || c == '{'), closes = c == ']' || c == '}';
    if (closes && !open.empty() && (open.back() == '[') != (c == ']'))
      return found(std::string("a ") + c + " where a " + open.back() + " is to be closed");
    if (opens) open += c;
    if (closes && !open.empty()) open.pop_back();
    word = !opens && std::string_view(" \t\r\n=,").find(c) == std::string_view::npos;
    dots = c == '.' ? dots + 1 : std::string_view("\n=,[]{}").find(c) != std::string_view::npos ? 0 : dots;
    if (static_cast<int>(open.size()) > kDeepest || dots > kDeepest)
      return found("nested more than " + std::to_string(kDeepest) + " levels deep");
  }
  return "";
}

/// The value of an override: TOML, or text without quotes such as runs/a.npy or sum(x^2).
toml::table override_value(const std::string& assignment, const std::string& text) {
  const std::string trouble = too_much("value = " + text);
  if (!trouble.empty())
    throw ConfigError("--set " + assignment.substr(0, 60) + ": the value cannot be used: line " + trouble);
  try {
    return toml::parse("value = " + text);
  } catch (const toml::parse_error& error) {
    // A whole number that does not parse has too many digits.
    const bool number = !text.empty() && text.find_first_not_of("+-0123456789") == std::string::npos;
    const bool word =
        !text.empty() && !number && std::string_view("[{\"'").find(text.front()) == std::string_view::npos;
    if (word) return toml::table{{"value", text}};
    throw ConfigError("--set " + assignment + ": the value is not TOML: " + std::string(error.description()));
  }
}

}  // namespace

std::string toml_string(const std::string& text) {
  return render(toml::value<std::string>(text));
}

// --- Document ----------------------------------------------------------------------------------------------

struct Document::Tables {
  toml::table root;
};

Document::Document(const std::string& text, std::string name, std::filesystem::path folder,
                   const std::vector<std::string>& overrides)
    : tables_(std::make_unique<Tables>()), name_(std::move(name)), folder_(std::move(folder)) {
  const std::string trouble = too_much(text);
  if (!trouble.empty()) throw ConfigError(name_ + ":" + trouble);
  try {
    tables_->root = toml::parse(text, name_);
  } catch (const toml::parse_error& error) {
    const toml::source_position at = error.source().begin;
    throw ConfigError(name_ + ":" + std::to_string(at.line) + ":" + std::to_string(at.column) + ": " +
                      std::string(error.description()));
  }
  for (const std::string& assignment : overrides) apply(assignment);
}

Document::~Document() = default;

void Document::apply(const std::string& assignment) {
  const std::string option = "--set " + assignment;
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw ConfigError(option + ": write key=value, for example --set flow.tau=1e-4");
  }
  std::string path = assignment.substr(0, equals);
  path.erase(std::remove(path.begin(), path.end(), ' '), path.end());
  if (std::count(path.begin(), path.end(), '.') > kDeepest)
    throw ConfigError("--set " + option.substr(6, 60) + "...: the key has more than " +
                      std::to_string(kDeepest) + " parts");
  toml::table value = override_value(assignment, assignment.substr(equals + 1));
  toml::node* at = &tables_->root;
  std::size_t begin = 0;
  while (true) {
    const std::size_t dot = path.find('.', begin);
    const std::string part = path.substr(begin, dot - begin);
    const std::string walked = path.substr(0, begin == 0 ? 0 : begin - 1);
    if (part.empty()) throw ConfigError(option + ": a part of the key is empty");
    if (toml::array* array = at->as_array()) {
      std::size_t index = 0;
      const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
      const bool whole = result.ec == std::errc() && result.ptr == part.data() + part.size();
      if (!whole || index >= array->size()) {
        throw ConfigError(option + ": '" + walked + "' is a list of " + std::to_string(array->size()) +
                          "; elements count from 0");
      }
      if (dot == std::string::npos) {
        array->replace(array->cbegin() + static_cast<std::ptrdiff_t>(index), std::move(*value.get("value")));
        break;
      }
      at = array->get(index);
    } else if (toml::table* table = at->as_table()) {
      if (dot == std::string::npos) {
        table->insert_or_assign(part, std::move(*value.get("value")));
        break;
      }
      if (!table->contains(part)) table->insert(part, toml::table{});
      at = table->get(part);
    } else {
      throw ConfigError(option + ": '" + walked + "' is " + type_name(*at) + ", which has no keys");
    }
    begin = dot + 1;
  }
  overrides_[path] = option;
}

Section Document::root() {
  blocks_.push_back(std::make_unique<Block>());
  return {*this, &tables_->root, "", blocks_.back().get()};
}

std::string Document::resolved() const {
  std::string out;
  for (const auto& block : blocks_) {
    if (block->lines.empty() && !block->header.starts_with("[[")) continue;
    if (!out.empty()) out += "\n";
    if (!block->header.empty()) out += block->header + "\n";
    for (const auto& [key, value] : block->lines) out += key + " = " + value + "\n";
  }
  return out;
}

// --- Section -----------------------------------------------------------------------------------------------

struct Section::Access {
  static const toml::node* get(const Section& section, const std::string& key) {
    return section.table_ ? static_cast<const toml::table*>(section.table_)->get(key) : nullptr;
  }
};

Section::Section(Document& document, const void* table, std::string path, Document::Block* block)
    : document_(&document), table_(table), path_(std::move(path)), block_(block) {}

std::string Section::full(const std::string& key) const {
  return path_.empty() ? key : key.empty() ? path_ : path_ + "." + key;
}

bool Section::has(const std::string& key) const {
  return Access::get(*this, key) != nullptr;
}

std::string Section::place(const std::string& key) const {
  const std::string name = full(key);
  for (const auto& [path, option] : document_->overrides_) {
    if (name == path || name.starts_with(path + ".")) return option + ": " + name;
  }
  const toml::node* node = Access::get(*this, key);
  if (!node) node = static_cast<const toml::table*>(table_);
  const auto line = node ? node->source().begin.line : 0;
  return document_->name_ + ":" + (line > 0 ? std::to_string(line) + ":" : "") +
         (name.empty() ? "" : " " + name);
}

void Section::fail(const std::string& key, const std::string& message) const {
  throw ConfigError(place(key) + " " + message);
}

void Section::wrong_type(const std::string& key, const std::string& wanted) const {
  const toml::node* node = Access::get(*this, key);
  if (!node) fail(key, "is missing; it must be " + wanted);
  fail(key, "= " + render(*node) + " is " + type_name(*node) + "; it must be " + wanted);
}

void Section::allow(const std::vector<std::string>& keys, const std::string& where) const {
  for (const std::string& key : this->keys()) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    const bool is_table =
        Access::get(*this, key)->is_table() || Access::get(*this, key)->is_array_of_tables();
    fail(key, std::string("is an unknown ") + (is_table ? "table" : "key") +
                  (where.empty() ? "" : " " + where) + "; did you mean '" + nearest_name(key, keys) +
                  "'? Allowed: " + joined(keys));
  }
}

std::vector<std::string> Section::keys() const {
  std::vector<std::string> out;
  if (!table_) return out;
  for (const auto& [key, value] : *static_cast<const toml::table*>(table_)) out.emplace_back(key.str());
  return out;
}

void Section::note(const std::string& key, const std::string& toml) {
  if (block_) block_->lines.emplace_back(key, toml);
}

Section Section::silent() const {
  return {*document_, table_, path_, nullptr};
}

bool Section::noted(const std::string& key) const {
  if (!block_) return false;
  return std::any_of(block_->lines.begin(), block_->lines.end(),
                     [&](const auto& line) { return line.first == key; });
}

/// Reads one key into a slot of any type, and returns the text of the value it has then; empty where it has
/// none.
struct Section::Reading {
  const Section& section;
  const std::string& key;
  const Range& range;
  bool required;
  const toml::node* node = Access::get(section, key);

  std::string operator()(double* value) const {
    require("a number, " + range.words());
    if (node) *value = finite();
    return exact_text(*value);
  }
  std::string operator()(std::optional<double>* value) const {
    if (node) *value = finite();
    return *value ? exact_text(**value) : "";
  }
  std::string operator()(int* value) const { return whole(*value); }
  std::string operator()(Index* value) const { return whole(*value); }
  std::string operator()(std::uint64_t* value) const { return whole(*value); }
  std::string operator()(bool* value) const {
    if (node && !node->is_boolean()) section.wrong_type(key, "true or false");
    if (node) *value = node->as_boolean()->get();
    return *value ? "true" : "false";
  }
  std::string operator()(std::string* value) const {
    require("a text");
    if (node && !node->is_string()) section.wrong_type(key, "a text in quotes");
    if (node) *value = node->as_string()->get();
    return toml_string(*value);
  }
  std::string operator()(const Choice& choice) const {
    const std::string allowed = "one of " + joined(choice.names);
    require(allowed);
    if (node && !node->is_string()) section.wrong_type(key, allowed);
    if (node) {
      const std::string name = node->as_string()->get();
      if (!choice.checks && std::find(choice.names.begin(), choice.names.end(), name) == choice.names.end()) {
        section.fail(key, "= \"" + name + "\" is unknown; did you mean \"" +
                              nearest_name(name, choice.names) + "\"? It must be " + allowed);
      }
      try {
        choice.set(name);
      } catch (const ValueError& error) {
        section.fail(key, std::string("= ") + error.what());
      }
    }
    return toml_string(choice.get());
  }
  std::string operator()(std::filesystem::path* value) const {
    if (!node && !required) return "";
    if (!node || !node->is_string() || node->as_string()->get().empty())
      section.wrong_type(key, "the name of a file");
    const std::filesystem::path given = node->as_string()->get();
    const std::filesystem::path& folder = section.document_->folder();
    *value = given.is_absolute() ? given : std::filesystem::absolute(folder / given).lexically_normal();
    section.document_->files_.emplace_back(section.full(key), *value);
    return toml_string(value->string());
  }
  std::string operator()(std::vector<int>* values) const {
    const std::string wanted = "a list of widths, each " + range.words() + ", for example [100, 20]";
    require(wanted);
    if (node) {
      if (!node->is_array()) section.wrong_type(key, wanted);
      values->clear();
      for (const toml::node& item : *node->as_array()) {
        const auto* one = item.as_integer();
        if (!one || !range.contains(static_cast<double>(one->get())))
          section.fail(key, "= " + render(*node) + "; it must be " + wanted);
        values->push_back(static_cast<int>(one->get()));
      }
      if (values->empty()) section.fail(key, "= [] is empty; it must be " + wanted);
    }
    std::string list;
    for (const int one : *values) list += (list.empty() ? "" : ", ") + std::to_string(one);
    return "[" + list + "]";
  }
  std::string operator()(const Special&) const { return ""; }

 private:
  void require(const std::string& wanted) const {
    if (required && !node) section.fail(key, "is missing; it must be " + wanted);
  }
  double finite() const {
    const std::optional<double> given = as_number(*node);
    if (!given) section.wrong_type(key, "a number, " + range.words());
    if (!std::isfinite(*given) || !range.contains(*given))
      section.fail(key, "= " + render(*node) + "; it must be " + range.words());
    return *given;
  }
  template <class Integer>
  std::string whole(Integer& value) const {
    const std::string wanted = "a whole number, " + range.words();
    require(wanted);
    if (node) {
      if (!node->is_integer()) section.wrong_type(key, wanted);
      const long long given = node->as_integer()->get();
      if (!range.contains(static_cast<double>(given)) || !std::in_range<Integer>(given))
        section.fail(key, "= " + std::to_string(given) + "; it must be " + range.words());
      value = static_cast<Integer>(given);
    }
    return std::to_string(value);
  }
};

void Section::read(const std::string& key, const Slot& slot, const Range& range, bool required) {
  const std::string text = std::visit(Reading{*this, key, range, required}, slot);
  if (!text.empty()) note(key, text);
}

double Section::number(const std::string& key, const Range& range) {
  double value = 0;
  read(key, &value, range, true);
  return value;
}

std::string Section::text(const std::string& key) {
  std::string value;
  read(key, &value, {}, true);
  return value;
}

std::string Section::choice(const std::string& key, const std::vector<std::string>& names) {
  std::string value;
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& name : names) pairs.emplace_back(name, name);
  read(key, Choice(value, pairs), {}, true);
  return value;
}

std::filesystem::path Section::file(const std::string& key) {
  std::filesystem::path value;
  read(key, &value, {}, true);
  return value;
}

Section::Kind Section::kind(const std::string& key) const {
  const toml::node* node = Access::get(*this, key);
  if (!node) return Kind::absent;
  if (node->is_number()) return Kind::number;
  if (node->is_string()) return Kind::text;
  if (const toml::array* array = node->as_array()) {
    return !array->empty() && array->front().is_array() ? Kind::list_of_lists : Kind::list;
  }
  return Kind::other;
}

Index Section::length(const std::string& key) const {
  const toml::node* node = Access::get(*this, key);
  return node && node->is_array() ? static_cast<Index>(node->as_array()->size()) : 0;
}

Matrix<double> Section::matrix(const std::string& key) {
  const toml::node* node = Access::get(*this, key);
  const std::string wanted = "a finite number, a list of numbers, or a list of rows of equal length";
  if (!node) wrong_type(key, wanted);
  std::vector<std::vector<double>> rows;
  const auto finite = [&](const toml::node& item) {
    const std::optional<double> value = as_number(item);
    if (!value || !std::isfinite(*value)) fail(key, "= " + render(*node) + "; it must be " + wanted);
    return *value;
  };
  const auto row_of = [&](const toml::array& array) {
    std::vector<double> row;
    for (const toml::node& item : array) row.push_back(finite(item));
    return row;
  };
  if (kind(key) == Kind::list_of_lists) {
    for (const toml::node& item : *node->as_array()) {
      if (!item.is_array()) fail(key, "= " + render(*node) + "; it must be " + wanted);
      rows.push_back(row_of(*item.as_array()));
    }
  } else if (kind(key) == Kind::list) {
    rows.push_back(row_of(*node->as_array()));
  } else {
    rows.push_back({finite(*node)});
  }
  Matrix<double> out(static_cast<Index>(rows.size()), static_cast<Index>(rows[0].size()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].size() != rows[0].size() || rows[i].empty())
      fail(key, "= " + render(*node) + "; it must be " + wanted);
    std::copy(rows[i].begin(), rows[i].end(), out.row(static_cast<Index>(i)));
  }
  note(key, render(*node));
  return out;
}

Section Section::table(const std::string& key) {
  const toml::node* node = Access::get(*this, key);
  if (node && !node->is_table()) wrong_type(key, "a table, [" + full(key) + "]");
  document_->blocks_.push_back(std::make_unique<Document::Block>());
  document_->blocks_.back()->header = "[" + full(key) + "]";
  return {*document_, node ? node->as_table() : nullptr, full(key), document_->blocks_.back().get()};
}

std::vector<Section> Section::tables(const std::string& key) {
  const toml::node* node = Access::get(*this, key);
  std::vector<Section> out;
  if (!node) return out;
  const toml::array* array = node->as_array();
  const std::string wanted = "an array of tables, [[" + full(key) + "]]";
  if (!array) wrong_type(key, wanted);
  for (std::size_t i = 0; i < array->size(); ++i) {
    if (!array->get(i)->is_table()) wrong_type(key, wanted);
    Document::Block* block = nullptr;
    if (block_) {
      document_->blocks_.push_back(std::make_unique<Document::Block>());
      block = document_->blocks_.back().get();
      block->header = "[[" + full(key) + "]]";
    }
    out.push_back(Section(*document_, array->get(i)->as_table(), full(key) + "." + std::to_string(i), block));
  }
  return out;
}

}  // namespace brenier
