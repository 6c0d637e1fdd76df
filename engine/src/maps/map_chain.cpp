// SPDX-License-Identifier: MIT
#include "engine/src/maps/map_chain.hpp"

#include <cmath>

#include "brenier/base/error.hpp"
#include "engine/src/checks/shape_check.hpp"
#include "engine/src/files/network_file.hpp"

namespace brenier {
namespace {

constexpr const char* kFormat = "brenier maps 1";
constexpr Index kColumns = 6;  // of "maps.steps": extrapolated, closes_step, step, time, tau, ratio

}  // namespace

void add_maps(const std::vector<BrenierMap>& maps, TensorFile& file) {
  if (maps.empty()) return;
  const BrenierMap& first = maps.front();
  const auto described = network_file(first.net, first.theta, kFormat).metadata;
  const Index count = static_cast<Index>(maps.size());
  Tensor theta{"maps.theta", {count, first.net.parameters()}, {}, DType::float64};
  Tensor steps{"maps.steps", {count, kColumns}, {}, DType::float64};
  for (const BrenierMap& map : maps) {
    check_parameters("maps", map.net, map.theta);
    if (network_file(map.net, map.theta, kFormat).metadata != described)
      throw ShapeError("maps: one file keeps maps of one network, and these have several");
    theta.values.insert(theta.values.end(), map.theta.begin(), map.theta.end());
    const double row[kColumns] = {map.base == MapBase::extrapolated ? 1.0 : 0.0,
                                  map.closes_step ? 1.0 : 0.0,
                                  static_cast<double>(map.step),
                                  map.time,
                                  map.tau,
                                  map.ratio};
    steps.values.insert(steps.values.end(), row, row + kColumns);
  }
  for (const auto& [key, value] : described) {
    if (key != "format") file.metadata[key] = value;
  }
  file.tensors.push_back(std::move(theta));
  file.tensors.push_back(std::move(steps));
}

std::vector<BrenierMap> maps_in(const TensorFile& file, const std::filesystem::path& name) {
  std::vector<BrenierMap> out;
  const Tensor* theta = file.find("maps.theta");
  const Tensor* steps = file.find("maps.steps");
  if (!theta && !steps) return out;
  const NetworkFile meta(name, file);
  if (!theta || !steps) meta.fail("has maps.theta or maps.steps alone");
  const Icnn net = meta.described();
  const Index count = steps->shape.empty() ? 0 : steps->shape[0];
  if (theta->shape != std::vector<Index>{count, net.parameters()} ||
      steps->shape != std::vector<Index>{count, kColumns})
    meta.fail("has maps.theta or maps.steps of another shape than its network says");
  for (Index k = 0; k < count; ++k) {
    const double* row = steps->values.data() + k * kColumns;
    for (Index c = 0; c < kColumns; ++c) {
      const bool whole =
          c > 2 || (row[c] >= 0 && row[c] <= (c == 2 ? 1e9 : 1) && std::floor(row[c]) == row[c]);
      if (!std::isfinite(row[c]) || !whole || (c == 5 && !(row[c] > 0 && row[c] < 1e6)))
        meta.fail("has the value " + exact_number(row[c]) + " in maps.steps, of map " + std::to_string(k));
    }
    // Through the names of the parameters: each is checked as in the file of one map.
    TensorFile one;
    const auto begin = theta->values.begin() + k * net.parameters();
    one = network_file(net, std::vector<double>(begin, begin + net.parameters()), kFormat);
    BrenierMap map{net, NetworkFile(name, one).parameters(net, false)};
    map.base = row[0] == 1 ? MapBase::extrapolated : MapBase::current;
    map.closes_step = row[1] == 1;
    map.step = static_cast<int>(row[2]);
    map.time = row[3];
    map.tau = row[4];
    map.ratio = row[5];
    out.push_back(std::move(map));
  }
  return out;
}

std::vector<std::byte> map_bytes(const std::vector<BrenierMap>& maps) {
  if (maps.empty()) throw ValueError("maps: there are none to be written");
  TensorFile file;
  file.metadata["format"] = kFormat;
  add_maps(maps, file);
  return safetensors_bytes(file);
}

std::vector<BrenierMap> parse_maps(std::span<const std::byte> bytes, const std::string& name) {
  const TensorFile file = parse_safetensors(bytes, name);
  const std::filesystem::path path = name;
  const NetworkFile meta(path, file);
  meta.choice("format", {kFormat});
  return maps_in(file, path);
}

}  // namespace brenier
