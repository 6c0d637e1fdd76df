// SPDX-License-Identifier: MIT
#include "brenier/safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "engine/src/files/input_file.hpp"

namespace brenier {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::uint64_t largest_header = 100'000'000;
constexpr const char* metadata_key = "__metadata__";
constexpr const char* checksum_key = "xxh64";

std::uint64_t width_of(DType dtype) {
  return dtype == DType::float32 ? 4 : 8;
}
const char* name_of(DType dtype) {
  return dtype == DType::float32 ? "F32" : "F64";
}

/// A tensor whose header entry has been checked, with its place in the data.
struct Entry {
  Tensor tensor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::size_t place = 0;  // in the header
};

json parse_header(const std::string& text, const InputFile& file) {
  // The library keeps the last of two equal keys without a word, so the keys are watched while it parses.
  std::vector<std::set<std::string>> seen;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > 4) file.fail("the header is nested too deeply to be safetensors");
    if (event == json::parse_event_t::object_start) seen.emplace_back();
    if (event == json::parse_event_t::object_end) seen.pop_back();
    if (event == json::parse_event_t::key && !seen.back().insert(parsed.get<std::string>()).second)
      file.fail("the name '" + parsed.get<std::string>() + "' occurs twice in the header");
    return true;
  };
  try {
    json header = json::parse(text, watch);
    if (!header.is_object()) file.fail("the header is not a JSON object");
    return header;
  } catch (const json::exception& error) {
    file.fail(std::string("the header is not valid JSON: ") + error.what());
  }
}

/// Short text of a JSON value for messages.
std::string show(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::vector<Index> read_shape(const json& value, const std::string& where, const InputFile& file) {
  if (!value.is_array()) file.fail(where + "shape is " + show(value) + ", a list is needed");
  std::vector<Index> shape;
  for (const json& extent : value) {
    if (!extent.is_number_unsigned() ||
        extent.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
      file.fail(where + "shape has the extent " + show(extent) + ", a non-negative whole number is needed");
    shape.push_back(extent.get<Index>());
  }
  return shape;
}

/// Number of elements, or nothing where it cannot be addressed.
bool count_elements(const std::vector<Index>& shape, std::uint64_t& elements) {
  elements = 1;
  if (std::find(shape.begin(), shape.end(), Index{0}) != shape.end()) {
    elements = 0;
    return true;
  }
  for (const Index extent : shape) {
    if (static_cast<std::uint64_t>(extent) > std::numeric_limits<Index>::max() / 8 / elements) return false;
    elements *= static_cast<std::uint64_t>(extent);
  }
  return true;
}

const json& member(const json& entry, const char* key, const std::string& where, const InputFile& file) {
  const auto found = entry.find(key);
  if (found == entry.end()) file.fail(where + "has no " + key);
  return *found;
}

Entry read_entry(const std::string& name, const json& value, std::uint64_t data_size, const InputFile& file) {
  const std::string where = "tensor '" + name + "': ";
  if (!value.is_object()) file.fail(where + "its entry is " + show(value) + ", an object is needed");
  for (const auto& [key, ignored] : value.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      file.fail(where + "unknown key '" + key + "'; allowed are dtype, shape, data_offsets");
  Entry entry;
  entry.tensor.name = name;
  const json& dtype = member(value, "dtype", where, file);
  if (dtype == "F32") {
    entry.tensor.dtype = DType::float32;
  } else if (dtype == "F64") {
    entry.tensor.dtype = DType::float64;
  } else {
    file.fail(where + "dtype " + show(dtype) + " is not supported; allowed are F32 and F64");
  }
  entry.tensor.shape = read_shape(member(value, "shape", where, file), where, file);
  const json& offsets = member(value, "data_offsets", where, file);
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    file.fail(where + "data_offsets are " + show(offsets) + ", two non-negative whole numbers are needed");
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (entry.begin > entry.end || entry.end > data_size)
    file.fail(where + "data_offsets " + show(offsets) + " are out of range; the file has " +
              std::to_string(data_size) + " bytes of data");
  std::uint64_t elements = 0;
  if (!count_elements(entry.tensor.shape, elements))
    file.fail(where + "the shape has more elements than can be addressed");
  if (elements * width_of(entry.tensor.dtype) != entry.end - entry.begin)
    file.fail(where + "the shape has " + std::to_string(elements) + " elements of " +
              name_of(entry.tensor.dtype) + ", the data_offsets " + show(offsets) + " hold " +
              std::to_string(entry.end - entry.begin) + " bytes");
  return entry;
}

/// Where the digits of the checksum stand in a header; npos where there are none. A quote inside of a text has
/// a backslash before it, so this is no part of one.
std::size_t find_digits(const std::string& header) {
  const std::string before = std::string("\"") + checksum_key + "\":\"";
  const std::size_t at = header.find(before);
  const std::size_t first = at + before.size();
  const bool whole = at != std::string::npos && first + Checksum::digits < header.size();
  return whole && header[first + Checksum::digits] == '"' ? first : std::string::npos;
}

/// The checksum so far: the header's length, and the header with zeros for the digits.
Checksum begin_checksum(std::string header, std::size_t digits) {
  const std::uint64_t length = header.size();
  header.replace(digits, Checksum::digits, Checksum::digits, '0');
  Checksum checksum;
  checksum.update(std::as_bytes(std::span(&length, 1)));
  checksum.update(std::as_bytes(std::span(header)));
  return checksum;
}

std::string read_header_text(InputFile& file) {
  std::uint64_t length = 0;
  file.read(std::as_writable_bytes(std::span(&length, 1)), "the header's length");
  if (length > largest_header)
    file.fail("a header of " + std::to_string(length) + " bytes; allowed are at most " +
              std::to_string(largest_header) + " (is this a safetensors file?)");
  if (length > file.remaining())
    file.fail("truncated: a header of " + std::to_string(length) + " bytes, " +
              std::to_string(file.remaining()) + " are left");
  std::string text(length, '\0');
  file.read(std::as_writable_bytes(std::span(text)), "the header");
  return text;
}

void check_tensor(const Tensor& tensor, std::set<std::string>& names) {
  const std::string where = "tensor '" + tensor.name + "': ";
  if (tensor.name == metadata_key) throw ValueError(where + "this name is reserved; choose another");
  if (!names.insert(tensor.name).second) throw ValueError(where + "two tensors have this name");
  std::uint64_t elements = 0;
  for (const Index extent : tensor.shape)
    if (extent < 0) throw ValueError(where + "the shape has the negative extent " + std::to_string(extent));
  if (!count_elements(tensor.shape, elements) || elements != tensor.values.size())
    throw ValueError(where + "the shape does not fit its " + std::to_string(tensor.values.size()) +
                     " values");
  if (tensor.dtype == DType::float64) return;
  for (std::size_t i = 0; i < tensor.values.size(); ++i)
    if (std::isfinite(tensor.values[i]) && !std::isfinite(static_cast<float>(tensor.values[i])))
      throw ValueError(where + "value " + std::to_string(i) +
                       " is too large for float32; write it as float64");
}

/// Calls take(bytes) with the values as they are stored.
template <class Take>
void stored_values(const Tensor& tensor, Take&& take) {
  if (tensor.dtype == DType::float64) return take(std::as_bytes(std::span(tensor.values)));
  std::vector<float> narrow(tensor.values.size());
  for (std::size_t i = 0; i < narrow.size(); ++i) narrow[i] = static_cast<float>(tensor.values[i]);
  take(std::as_bytes(std::span(narrow)));
}

}  // namespace

const Tensor* TensorFile::find(const std::string& name) const {
  for (const Tensor& tensor : tensors)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

const Tensor& TensorFile::at(const std::string& name) const {
  if (const Tensor* found = find(name)) return *found;
  std::string present;
  for (const Tensor& tensor : tensors) present += (present.empty() ? "" : ", ") + tensor.name;
  throw ValueError("no tensor '" + name + "'; there are: " + (present.empty() ? "none" : present));
}

namespace {

TensorFile read_from(InputFile& file) {
  const std::string text = read_header_text(file);
  const json header = parse_header(text, file);
  const std::string damaged = std::string(
                                  "its checksum does not fit: the file is damaged, or another program "
                                  "changed it (without the metadata '") +
                              checksum_key + "' it is read unchecked)";
  std::string wanted;
  TensorFile content;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != metadata_key) {
      entries.push_back(read_entry(name, value, file.remaining(), file));
      entries.back().place = entries.size();
      continue;
    }
    if (!value.is_object()) file.fail("__metadata__ is " + show(value) + ", an object of strings is needed");
    for (const auto& [key, item] : value.items()) {
      if (!item.is_string())
        file.fail("__metadata__ '" + key + "' is " + show(item) + ", a string is needed");
      content.metadata[key] = item.get<std::string>();
    }
  }
  std::optional<Checksum> checksum;
  if (const auto digits = content.metadata.extract(checksum_key); !digits.empty()) {
    const std::size_t at = find_digits(text);
    if (at == std::string::npos || text.substr(at, Checksum::digits) != digits.mapped()) file.fail(damaged);
    checksum = begin_checksum(text, at);
    wanted = digits.mapped();
    file.watch(&*checksum);
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.place) < std::tie(b.begin, b.end, b.place);
  });
  std::uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != position)
      file.fail("tensor '" + entry.tensor.name + "': its data begin at " + std::to_string(entry.begin) +
                ", the data before end at " + std::to_string(position) +
                (entry.begin < position ? " (they overlap)" : " (they leave a gap)"));
    position = entry.end;
  }
  if (position != file.remaining())
    file.fail("the tensors take " + std::to_string(position) + " bytes, the file has " +
              std::to_string(file.remaining()) + " bytes of data");
  for (Entry& entry : entries) {
    Tensor& tensor = entry.tensor;
    tensor.values.resize((entry.end - entry.begin) / width_of(tensor.dtype));
    if (tensor.dtype == DType::float32) {
      file.read_values<float>(tensor.values, "tensor '" + tensor.name + "'");
    } else {
      file.read_values<double>(tensor.values, "tensor '" + tensor.name + "'");
    }
    content.tensors.push_back(std::move(tensor));
  }
  if (checksum && checksum->text() != wanted) file.fail(damaged);
  content.checked = checksum.has_value();
  return content;
}

/// Calls take(bytes) with the pieces of the file, in their order.
template <class Take>
void write_to(const TensorFile& content, Take&& take) {
  std::set<std::string> names;
  std::vector<const Tensor*> order;
  for (const Tensor& tensor : content.tensors) {
    check_tensor(tensor, names);
    order.push_back(&tensor);
  }
  // Those of a width in their order: they lie in one array.
  std::sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
    const std::uint64_t of_a = width_of(a->dtype), of_b = width_of(b->dtype);
    return of_a != of_b ? of_a > of_b : a < b;
  });
  std::string header;
  try {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    std::map<std::string, std::string> metadata = content.metadata;
    metadata[checksum_key] = std::string(Checksum::digits, '0');
    object[metadata_key] = metadata;
    std::uint64_t position = 0;
    for (const Tensor* tensor : order) {
      const std::uint64_t end = position + tensor->values.size() * width_of(tensor->dtype);
      nlohmann::ordered_json& entry = object[tensor->name] = nlohmann::ordered_json::object();
      entry["dtype"] = name_of(tensor->dtype);
      entry["shape"] = tensor->shape;
      entry["data_offsets"] = {position, end};
      position = end;
    }
    header = object.dump();
  } catch (const json::exception& error) {
    throw ValueError(std::string("a tensor's name or the metadata are not valid UTF-8: ") + error.what());
  }
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > largest_header)
    throw ValueError("a header of " + std::to_string(header.size()) + " bytes; allowed are at most " +
                     std::to_string(largest_header));
  const std::size_t digits = find_digits(header);
  Checksum checksum = begin_checksum(header, digits);
  for (const Tensor* tensor : order)
    stored_values(*tensor, [&](std::span<const std::byte> bytes) { checksum.update(bytes); });
  header.replace(digits, Checksum::digits, checksum.text());
  const std::uint64_t length = header.size();
  take(std::as_bytes(std::span(&length, 1)));
  take(std::as_bytes(std::span(header)));
  for (const Tensor* tensor : order) stored_values(*tensor, take);
}

}  // namespace

TensorFile read_safetensors(const fs::path& path) {
  InputFile file(path);
  return read_from(file);
}

TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::string& name) {
  InputFile file(bytes, name);
  return read_from(file);
}

void write_safetensors(const fs::path& path, const TensorFile& content) {
  std::optional<AtomicFile> file;  // not before the content has been checked
  write_to(content, [&](std::span<const std::byte> bytes) {
    if (!file) file.emplace(path);
    file->write(bytes);
  });
  file->commit();
}

std::vector<std::byte> safetensors_bytes(const TensorFile& content) {
  std::vector<std::byte> out;
  write_to(content,
           [&](std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); });
  return out;
}

}  // namespace brenier
