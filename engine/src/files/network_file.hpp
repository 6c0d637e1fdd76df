// SPDX-License-Identifier: MIT
// What maps and potentials have in common as files: tensors by the names of Icnn::tensors(), and metadata
// that say which network it is.
#pragma once

#include <charconv>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "brenier/model/icnn.hpp"
#include "brenier/safetensors.hpp"

namespace brenier {

/// The shortest text that reads back as the same number.
std::string exact_number(double value);

/// Metadata and tensors of a file, with errors that name the file and the key or the tensor.
class NetworkFile {
 public:
  NetworkFile(const std::filesystem::path& path, const TensorFile& file) : path_(path), file_(file) {}

  bool has(const std::string& key) const { return file_.metadata.contains(key); }
  const std::string& text(const std::string& key) const;
  template <class N>
  N number(const std::string& key) const {
    return parse<N>(key, text(key));
  }
  Activation activation() const;
  /// Of the first and the last layer; files of earlier versions do not say, and have none of it.
  void read_layers(Architecture& architecture) const;
  /// The position of the value in `names`.
  std::size_t choice(const std::string& key, std::initializer_list<const char*> names) const;

  /// The network that the metadata describe.
  Icnn described() const;
  /// The network whose tensors these are: layers as far as they go, plain or residual. Without a quadratic
  /// term alpha is 0 and frozen.
  Icnn deduced() const;
  /// Its parameters (net.parameters()); all must be there with the right shape, finite, and >= 0 where
  /// convexity needs it. A quadratic term may be missing where `optional_quadratic`; it is 0 then.
  std::vector<double> parameters(const Icnn& net, bool optional_quadratic) const;

  /// IoError: the file's name, and `what`.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  template <class N>
  N parse(const std::string& key, const std::string& value) const {
    N out{};
    const auto result = std::from_chars(value.data(), value.data() + value.size(), out);
    if (result.ec != std::errc() || result.ptr != value.data() + value.size()) {
      fail("has " + key + " = \"" + value + "\", which is not a number of the right kind");
    }
    return out;
  }
  std::vector<int> widths(const std::string& key) const;
  const Tensor& tensor(const std::string& name) const;
  Icnn network(const Architecture& architecture) const;

  const std::filesystem::path& path_;
  const TensorFile& file_;
};

/// Tensors and metadata of a network; `format` says what it is.
TensorFile network_file(const Icnn& net, std::span<const double> theta, const std::string& format);

}  // namespace brenier
