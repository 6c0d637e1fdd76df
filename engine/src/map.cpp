// SPDX-License-Identifier: MIT
// Maps as files. The tensors are those of the network; the metadata say which network and which step.
#include "brenier/map.hpp"

#include <charconv>
#include <utility>

#include "brenier/safetensors.hpp"
#include "engine/src/show.hpp"
#include "kernels/runtime/error.hpp"

namespace brenier {
namespace {

std::string exact(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

std::string joined(const std::vector<int>& widths) {
  std::string out;
  for (const int width : widths) out += (out.empty() ? "" : ",") + std::to_string(width);
  return out;
}

/// Metadata of a file, with errors that name the file and the key.
class Metadata {
 public:
  Metadata(const std::filesystem::path& path, const TensorFile& file) : path_(path), values_(file.metadata) {}

  const std::string& text(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) fail("has no metadata \"" + key + "\"; is it a map that brenier wrote?");
    return found->second;
  }
  template <class N>
  N number(const std::string& key) const {
    return parse<N>(key, text(key));
  }
  std::vector<int> widths(const std::string& key) const {
    std::vector<int> out;
    const std::string& list = text(key);
    for (std::size_t at = 0; at <= list.size();) {
      const std::size_t end = std::min(list.find(',', at), list.size());
      out.push_back(parse<int>(key, list.substr(at, end - at)));
      at = end + 1;
    }
    return out;
  }
  /// The position of the value in `names`.
  std::size_t choice(const std::string& key, std::initializer_list<const char*> names) const {
    std::size_t index = 0;
    std::string known;
    for (const char* name : names) {
      if (text(key) == name) return index;
      known += (known.empty() ? "" : ", ") + std::string(name);
      ++index;
    }
    fail("has " + key + " = \"" + text(key) + "\"; known are: " + known);
  }
  [[noreturn]] void fail(const std::string& what) const { throw IoError(path_.string() + " " + what); }

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

  const std::filesystem::path& path_;
  const std::map<std::string, std::string>& values_;
};

}  // namespace

void write_map(const std::filesystem::path& path, const BrenierMap& map) {
  const Architecture& a = map.net.architecture();
  TensorFile file;
  for (const ParameterTensor& tensor : map.net.tensors()) {
    const auto begin = map.theta.begin() + tensor.offset;
    Tensor out{tensor.name, {tensor.rows}, {begin, begin + tensor.size()}, DType::float64};
    // Matrices keep both extents; biases, scales and single numbers are vectors.
    if (tensor.cols > 1 || tensor.name.ends_with("weight") || tensor.name.ends_with("factor")) {
      out.shape.push_back(tensor.cols);
    }
    file.tensors.push_back(std::move(out));
  }
  file.metadata = {{"format", "brenier map 1"},
                   {"dim", std::to_string(a.dim)},
                   {"hidden", joined(a.hidden)},
                   {"activation", a.activation == Activation::softplus ? "softplus" : "squareplus"},
                   {"residual", a.residual ? "yes" : "no"},
                   {"quadratic_rank", std::to_string(a.quadratic_rank)},
                   {"learn_alpha", a.learn_alpha ? "yes" : "no"},
                   {"alpha_min", exact(a.alpha_min)},
                   {"floor", exact(a.floor)},
                   {"base", map.base == MapBase::current ? "current" : "extrapolated"},
                   {"closes_step", map.closes_step ? "yes" : "no"},
                   {"step", std::to_string(map.step)},
                   {"time", exact(map.time)},
                   {"tau", exact(map.tau)},
                   {"ratio", exact(map.ratio)}};
  write_safetensors(path, file);
}

BrenierMap read_map(const std::filesystem::path& path) {
  const TensorFile file = read_safetensors(path);
  const Metadata meta(path, file);
  meta.choice("format", {"brenier map 1"});
  Architecture a;
  a.dim = meta.number<int>("dim");
  a.hidden = meta.widths("hidden");
  a.activation = meta.choice("activation", {"softplus", "squareplus"}) == 0 ? Activation::softplus
                                                                            : Activation::squareplus;
  a.residual = meta.choice("residual", {"no", "yes"}) == 1;
  a.quadratic_rank = meta.number<int>("quadratic_rank");
  a.learn_alpha = meta.choice("learn_alpha", {"no", "yes"}) == 1;
  a.alpha_min = meta.number<double>("alpha_min");
  a.floor = meta.number<double>("floor");
  BrenierMap map = [&] {
    try {
      return BrenierMap{Icnn(a), {}};
    } catch (const ValueError& error) {
      meta.fail(std::string("describes no valid network: ") + error.what());
    }
  }();
  map.theta.resize(map.net.parameters());
  for (const ParameterTensor& tensor : map.net.tensors()) {
    const Tensor* found = file.find(tensor.name);
    if (!found) meta.fail("has no tensor \"" + tensor.name + "\"");
    if (static_cast<Index>(found->values.size()) != tensor.size()) {
      meta.fail("has " + std::to_string(found->values.size()) + " values in tensor \"" + tensor.name +
                "\"; expected " + std::to_string(tensor.rows) + " x " + std::to_string(tensor.cols));
    }
    for (Index i = 0; i < tensor.size(); ++i) {
      const double value = found->values[i];
      if (!(value > -1e300 && value < 1e300) || (tensor.nonnegative && value < 0)) {
        meta.fail("has the value " + show(value) + " in tensor \"" + tensor.name + "\"; it must be finite" +
                  (tensor.nonnegative ? " and at least 0, or the potential is not convex" : ""));
      }
      map.theta[tensor.offset + i] = value;
    }
  }
  map.base = meta.choice("base", {"current", "extrapolated"}) == 0 ? MapBase::current : MapBase::extrapolated;
  map.closes_step = meta.choice("closes_step", {"no", "yes"}) == 1;
  map.step = meta.number<int>("step");
  map.time = meta.number<double>("time");
  map.tau = meta.number<double>("tau");
  map.ratio = meta.number<double>("ratio");
  if (!(map.ratio > 0 && map.ratio < 1e6)) {
    meta.fail("has ratio = \"" + meta.text("ratio") + "\"; step lengths have a ratio above 0");
  }
  return map;
}

}  // namespace brenier
