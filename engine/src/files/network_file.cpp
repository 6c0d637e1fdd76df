// SPDX-License-Identifier: MIT
#include "engine/src/files/network_file.hpp"

#include <algorithm>
#include <set>

#include "brenier/base/error.hpp"
#include "engine/src/checks/shape_check.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

std::string joined(const std::vector<int>& widths) {
  std::string out;
  for (const int width : widths) out += (out.empty() ? "" : ",") + std::to_string(width);
  return out;
}

/// "128 x 64"; a scalar is "1".
std::string extents(const std::vector<Index>& shape) {
  std::string out;
  for (const Index n : shape) out += (out.empty() ? "" : " x ") + std::to_string(n);
  return out.empty() ? "1" : out;
}

/// Without extents of 1: a row, a column and a vector are the same.
std::vector<Index> squeezed(std::vector<Index> shape) {
  std::erase(shape, Index{1});
  return shape;
}

bool is_quadratic(const std::string& name) {
  return name.starts_with("quadratic.");
}

}  // namespace

std::string exact_number(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

void NetworkFile::fail(const std::string& what) const {
  throw IoError("'" + path_.string() + "' " + what);
}

const std::string& NetworkFile::text(const std::string& key) const {
  const auto found = file_.metadata.find(key);
  if (found == file_.metadata.end()) fail("has no metadata \"" + key + "\"; is it a map that brenier wrote?");
  return found->second;
}

std::vector<int> NetworkFile::widths(const std::string& key) const {
  std::vector<int> out;
  const std::string& list = text(key);
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    out.push_back(parse<int>(key, list.substr(at, end - at)));
    at = end + 1;
  }
  return out;
}

std::size_t NetworkFile::choice(const std::string& key, std::initializer_list<const char*> names) const {
  std::size_t index = 0;
  std::string known;
  for (const char* name : names) {
    if (text(key) == name) return index;
    known += (known.empty() ? "" : ", ") + std::string(name);
    ++index;
  }
  fail("has " + key + " = \"" + text(key) + "\"; known are: " + known);
}

Activation NetworkFile::activation() const {
  try {
    return parse_activation(text("activation"));
  } catch (const ValueError& error) {
    fail(std::string("has activation = ") + error.what());
  }
}

void NetworkFile::read_layers(Architecture& a) const {
  if (has("first_layer")) {
    a.first_layer =
        choice("first_layer", {"plain", "squared"}) == 1 ? FirstLayer::squared : FirstLayer::plain;
  }
  if (has("output_activation")) a.output_activation = choice("output_activation", {"no", "yes"}) == 1;
}

Icnn NetworkFile::network(const Architecture& architecture) const {
  try {
    return Icnn(architecture);
  } catch (const ValueError& error) {
    fail(std::string("describes no valid network: ") + error.what());
  }
}

Icnn NetworkFile::described() const {
  Architecture a;
  a.dim = number<int>("dim");
  a.hidden = widths("hidden");
  a.activation = activation();
  read_layers(a);
  a.residual = choice("residual", {"no", "yes"}) == 1;
  a.quadratic_rank = number<int>("quadratic_rank");
  a.learn_alpha = choice("learn_alpha", {"no", "yes"}) == 1;
  a.alpha_min = number<double>("alpha_min");
  a.floor = number<double>("floor");
  return network(a);
}

const Tensor& NetworkFile::tensor(const std::string& name) const {
  const Tensor* found = file_.find(name);
  if (!found) fail("has no tensor \"" + name + "\"");
  return *found;
}

Icnn NetworkFile::deduced() const {
  const auto extent = [&](const std::string& name, std::size_t axis) {
    const Tensor& found = tensor(name);
    if (axis >= found.shape.size()) {
      fail("has shape " + extents(found.shape) + " for tensor \"" + name + "\"; expected a matrix");
    }
    if (found.shape[axis] > 1'000'000) {
      fail("has shape " + extents(found.shape) + " for tensor \"" + name + "\"; at most 1000000 are allowed");
    }
    return static_cast<int>(found.shape[axis]);
  };
  Architecture a;
  if (has("activation")) a.activation = activation();
  read_layers(a);
  a.dim = extent("layer0.input.weight", 1);
  a.hidden.clear();
  for (int l = 0; l <= kMaxLayers; ++l) {
    const std::string prefix = "layer" + std::to_string(l) + ".";
    const bool any = std::any_of(file_.tensors.begin(), file_.tensors.end(),
                                 [&](const Tensor& t) { return t.name.starts_with(prefix); });
    if (!any) break;
    a.hidden.push_back(extent(prefix + "bias", 0));
  }
  if (a.output_activation) {
    if (a.hidden.size() < 2 || a.hidden.back() != 1)
      fail("says output_activation = \"yes\", but its last layer is not one of width 1 behind others");
    a.hidden.pop_back();
  }
  a.residual = file_.find("layer1.inner.weight") != nullptr;
  if (file_.find("quadratic.factor")) a.quadratic_rank = extent("quadratic.factor", 0);
  a.learn_alpha = false;
  a.floor = 0;
  return network(a);
}

std::vector<double> NetworkFile::parameters(const Icnn& net, bool optional_quadratic) const {
  // All shapes first: what the metadata claim takes memory only where the file has as much.
  std::set<std::string> known;
  std::vector<ParameterTensor> present;
  for (const ParameterTensor& wanted : net.tensors()) {
    known.insert(wanted.name);
    if (optional_quadratic && is_quadratic(wanted.name) && !file_.find(wanted.name)) continue;
    const Tensor& found = tensor(wanted.name);
    if (squeezed(found.shape) != squeezed({wanted.rows, wanted.cols})) {
      fail("has shape " + extents(found.shape) + " for tensor \"" + wanted.name + "\"; expected " +
           extents({wanted.rows, wanted.cols}));
    }
    present.push_back(wanted);
  }
  std::vector<double> theta(static_cast<std::size_t>(net.parameters()), 0.0);
  for (const ParameterTensor& wanted : present) {
    const Tensor& found = tensor(wanted.name);
    for (Index i = 0; i < wanted.size(); ++i) {
      const double value = found.values[static_cast<std::size_t>(i)];
      if (!(value > -1e300 && value < 1e300) || (wanted.nonnegative && value < 0)) {
        fail("has the value " + show(value) + " in tensor \"" + wanted.name + "\" (row " +
             std::to_string(i / wanted.cols) + ", column " + std::to_string(i % wanted.cols) +
             "); it must be finite" +
             (wanted.nonnegative ? " and at least 0, or the potential is not convex" : ""));
      }
      theta[static_cast<std::size_t>(wanted.offset + i)] = value;
    }
  }
  for (const Tensor& found : file_.tensors) {
    if (!known.contains(found.name)) {
      fail("has the tensor \"" + found.name + "\", which no " +
           (net.architecture().residual ? "residual" : "plain") + " network with " +
           std::to_string(net.architecture().hidden.size()) + " hidden layers has");
    }
  }
  return theta;
}

TensorFile network_file(const Icnn& net, std::span<const double> theta, const std::string& format) {
  check_parameters(format, net, theta);
  const Architecture& a = net.architecture();
  TensorFile file;
  for (const ParameterTensor& tensor : net.tensors()) {
    const auto begin = theta.begin() + tensor.offset;
    Tensor out{tensor.name, {tensor.rows}, {begin, begin + tensor.size()}, DType::float64};
    // Matrices keep both extents; biases, scales and single numbers are vectors.
    if (tensor.cols > 1 || tensor.name.ends_with("weight") || tensor.name.ends_with("factor")) {
      out.shape.push_back(tensor.cols);
    }
    file.tensors.push_back(std::move(out));
  }
  file.metadata = {{"format", format},
                   {"dim", std::to_string(a.dim)},
                   {"hidden", joined(a.hidden)},
                   {"activation", text_of(a.activation)},
                   {"first_layer", a.first_layer == FirstLayer::squared ? "squared" : "plain"},
                   {"output_activation", a.output_activation ? "yes" : "no"},
                   {"residual", a.residual ? "yes" : "no"},
                   {"quadratic_rank", std::to_string(a.quadratic_rank)},
                   {"learn_alpha", a.learn_alpha ? "yes" : "no"},
                   {"alpha_min", exact_number(a.alpha_min)},
                   {"floor", exact_number(a.floor)}};
  return file;
}

}  // namespace brenier
