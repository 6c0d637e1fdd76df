// SPDX-License-Identifier: MIT
// Maps as files: a network, and which step of a flow it is.
#include "brenier/map.hpp"

#include <cmath>

#include "brenier/safetensors.hpp"
#include "engine/src/files/network_file.hpp"

namespace brenier {

void write_map(const std::filesystem::path& path, const BrenierMap& map) {
  TensorFile file = network_file(map.net, map.theta, "brenier map 1");
  file.metadata["base"] = map.base == MapBase::current ? "current" : "extrapolated";
  file.metadata["closes_step"] = map.closes_step ? "yes" : "no";
  file.metadata["step"] = std::to_string(map.step);
  file.metadata["time"] = exact_number(map.time);
  file.metadata["tau"] = exact_number(map.tau);
  file.metadata["ratio"] = exact_number(map.ratio);
  write_safetensors(path, file);
}

BrenierMap read_map(const std::filesystem::path& path, bool* checked) {
  const TensorFile file = read_safetensors(path);
  if (checked) *checked = file.checked;
  const NetworkFile meta(path, file);
  meta.choice("format", {"brenier map 1"});
  BrenierMap map{meta.described(), {}};
  map.theta = meta.parameters(map.net, false);
  map.base = meta.choice("base", {"current", "extrapolated"}) == 0 ? MapBase::current : MapBase::extrapolated;
  map.closes_step = meta.choice("closes_step", {"no", "yes"}) == 1;
  map.step = meta.number<int>("step");
  map.time = meta.number<double>("time");
  map.tau = meta.number<double>("tau");
  if (map.step < 0) meta.fail("has step = \"" + meta.text("step") + "\"; steps count from 0");
  for (const char* key : {"time", "tau"}) {
    if (!std::isfinite(meta.number<double>(key)))
      meta.fail(std::string("has ") + key + " = \"" + meta.text(key) + "\"; it must be finite");
  }
  if (map.tau < 0) meta.fail("has tau = \"" + meta.text("tau") + "\"; a step's length is not negative");
  if (meta.has("ratio")) map.ratio = meta.number<double>("ratio");  // else equal steps
  if (!(map.ratio > 0 && map.ratio < 1e6)) {
    meta.fail("has ratio = \"" + meta.text("ratio") + "\"; step lengths have a ratio above 0");
  }
  return map;
}

}  // namespace brenier
