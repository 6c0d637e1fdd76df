// SPDX-License-Identifier: MIT
// Maps and checkpoints in the safetensors format (https://github.com/huggingface/safetensors, "Format").
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// How the elements of a tensor are stored in the file.
enum class DType { float32, float64 };

/// A named array, row-major. An empty shape is a scalar (one value).
struct Tensor {
  std::string name;
  std::vector<Index> shape;
  std::vector<double> values;
  DType dtype = DType::float64;
};

/// The content of a .safetensors file.
struct TensorFile {
  std::vector<Tensor> tensors;
  std::map<std::string, std::string> metadata;
  /// It was read from a file with a checksum, which fits. Files of other programs have none.
  bool checked = false;

  /// The tensor of that name, or nullptr.
  const Tensor* find(const std::string& name) const;

  /// The tensor of that name; ValueError that lists what there is where it is missing.
  const Tensor& at(const std::string& name) const;
};

/// Reads a file whose tensors are F32 or F64, in the order of their data.
/// IoError, with the file, the tensor and the value, for anything that the format does not allow: truncated,
/// a header above 100 MB or beyond the end, not JSON, a name twice, another dtype, offsets that overlap,
/// leave a gap or do not fit the shape, metadata that are not strings, a checksum that does not fit.
TensorFile read_safetensors(const std::filesystem::path& path);

/// Writes a file atomically, with a checksum of all its bytes in the metadata ("xxh64", xxHash-64 with its own
/// 16 digits as zeros; reading takes it off again), F64 tensors first (so that all data are aligned), otherwise in the order given.
/// Values that came from F32 and F64 files return bit for bit. ValueError: a name twice or reserved, a shape
/// that does not fit the number of values, a finite value too large for float32. IoError as for AtomicFile.
void write_safetensors(const std::filesystem::path& path, const TensorFile& content);

/// The same bytes in memory, and back; `name` stands for the file in messages.
std::vector<std::byte> safetensors_bytes(const TensorFile& content);
TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::string& name);

}  // namespace brenier
