// SPDX-License-Identifier: MIT
// Typed reading of TOML: every error names the file, the line, the key, the value and what is allowed, and
// every value that is read is written down with its effective value, so that a run can be repeated.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/view.hpp"
#include "kernels/base/keys.hpp"

namespace brenier {

/// A configuration that cannot be used.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A text as TOML writes it, with quotes and escapes.
std::string toml_string(const std::string& text);

class Section;

/// A parsed file with its overrides, and the resolved text that grows as it is read.
class Document {
 public:
  /// `text` is TOML, `name` the file in messages; paths in it are relative to `folder`. An override
  /// "flow.tau=1e-4" replaces a value; "functional.0.weight=2" one of an array of tables. Its value is TOML,
  /// or a word without quotes. ConfigError: text that does not parse, an override without '=' or through a
  /// value.
  Document(const std::string& text, std::string name, std::filesystem::path folder,
           const std::vector<std::string>& overrides);
  ~Document();
  Document(const Document&) = delete;
  Document& operator=(const Document&) = delete;

  /// The top level.
  Section root();

  const std::filesystem::path& folder() const { return folder_; }
  const std::string& name() const { return name_; }
  /// Files that were named: key, absolute path.
  const std::vector<std::pair<std::string, std::filesystem::path>>& files() const { return files_; }
  /// All sections that were read, as TOML that loads again.
  std::string resolved() const;

 private:
  friend class Section;
  struct Tables;
  struct Block {
    std::string header;  // "[flow]", or empty
    std::vector<std::pair<std::string, std::string>> lines;
  };
  void apply(const std::string& assignment);

  std::unique_ptr<Tables> tables_;
  std::string name_;
  std::filesystem::path folder_;
  std::map<std::string, std::string> overrides_;  // path -> the option as it was given
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::pair<std::string, std::filesystem::path>> files_;
};

/// The names of the rows that go with a kind of the section, each once; of all rows where the kind is empty.
template <class... Options>
std::vector<std::string> names_of(const std::string& kind, const Keys<Options>&... tables) {
  std::vector<std::string> out;
  const auto add = [&](const auto& keys) {
    for (const auto& key : keys) {
      if (key.applies(kind) && std::find(out.begin(), out.end(), key.name) == out.end())
        out.push_back(key.name);
    }
  };
  (add(tables), ...);
  return out;
}

/// One table of a document. Reading a key checks its type and range and notes its effective value.
class Section {
 public:
  bool present() const { return table_ != nullptr; }
  bool has(const std::string& key) const;
  const std::string& path() const { return path_; }

  /// ConfigError for a key that is not among `keys`, with the nearest one. `where` says for what they are
  /// allowed.
  void allow(const std::vector<std::string>& keys, const std::string& where = "") const;

  /// Reads a key into its slot; what the slot holds is the default, unless the key is required. Nothing
  /// happens to paths, optional numbers and special values that are absent.
  void read(const std::string& key, const Slot& slot, const Range& range, bool required = false);

  /// Reads the rows that go with a kind of the section, in their order, but those that have been read.
  template <class Options>
  void read(const Keys<Options>& keys, Options& options, const std::string& kind = "") {
    for (const Key<Options>& key : keys) {
      if (key.applies(kind) && !noted(key.name)) read(key, options);
    }
  }
  /// Reads one of the rows, which must be there, before the others.
  template <class Options>
  void read_first(const std::string& name, const Keys<Options>& keys, Options& options,
                  const std::string& kind = "") {
    for (const Key<Options>& key : keys) {
      if (key.name == name && key.applies(kind)) return read(key, options);
    }
    throw Error("configuration: no row for the key '" + name + "'");
  }
  template <class Options>
  void read(const Key<Options>& key, Options& options) {
    read(key.name, key.slot(options), key.range, key.more.required);
  }

  double number(const std::string& key, const Range& range);
  std::string text(const std::string& key);
  std::string choice(const std::string& key, const std::vector<std::string>& names);
  /// A file name, made absolute; IoError is left to its reader.
  std::filesystem::path file(const std::string& key);

  /// What a key holds, without reading it.
  enum class Kind { absent, number, text, list, list_of_lists, other };
  Kind kind(const std::string& key) const;
  /// Elements of a list; 0 for anything else.
  Index length(const std::string& key) const;
  /// Rows of equal length; or one row for a list of numbers; or the single number. No text.
  Matrix<double> matrix(const std::string& key);

  /// Tables below this one. A missing table reads as an empty one; `tables` is an array of tables.
  Section table(const std::string& key);
  std::vector<Section> tables(const std::string& key);
  std::vector<std::string> keys() const;
  /// Whether a key has been read, or noted.
  bool noted(const std::string& key) const;

  /// The same table, read without a note.
  Section silent() const;
  /// An effective value that the file did not give in this form.
  void note(const std::string& key, const std::string& toml);

  /// ConfigError at a key: "FILE:LINE: PATH.KEY MESSAGE".
  [[noreturn]] void fail(const std::string& key, const std::string& message) const;
  /// The same as a prefix: "FILE:LINE: PATH.KEY".
  std::string place(const std::string& key) const;

 private:
  friend class Document;
  struct Access;
  struct Reading;
  Section(Document& document, const void* table, std::string path, Document::Block* block);
  std::string full(const std::string& key) const;
  [[noreturn]] void wrong_type(const std::string& key, const std::string& wanted) const;

  Document* document_;
  const void* table_;  // toml::table; the library's header stays in one file
  std::string path_;
  Document::Block* block_;  // nullptr where nothing is noted
};

}  // namespace brenier
