// SPDX-License-Identifier: MIT
// .safetensors files as tensors, maps, potentials and checkpoints.
#include <cmath>
#include <fstream>

#include "brenier/base/team.hpp"
#include "brenier/map.hpp"
#include "brenier/potential.hpp"
#include "brenier/safetensors.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::fuzz;

namespace {

constexpr Index kMostParameters = 20'000, kMostDimensions = 32;

void check_tensors(const TensorFile& content, const std::filesystem::path& copy) {
  write_safetensors(copy, content);
  const TensorFile again = read_safetensors(copy);
  require(again.checked, "our own file has a checksum");
  require(again.metadata == content.metadata && again.tensors.size() == content.tensors.size(),
          "the copy's tensors");
  for (const Tensor& tensor : content.tensors) {
    const Tensor& other = again.at(tensor.name);
    require(other.shape == tensor.shape && other.values.size() == tensor.values.size(), "the copy's shapes");
    const std::size_t bytes = tensor.values.size() * sizeof(double);
    require(bytes == 0 || std::memcmp(other.values.data(), tensor.values.data(), bytes) == 0,
            "the copy's bits");
  }
}

void check_map(const BrenierMap& map, const std::filesystem::path& copy, Team& team) {
  require(map.step >= 0 && std::isfinite(map.time) && std::isfinite(map.tau), "the map's place in the flow");
  if (map.net.parameters() > kMostParameters || map.net.dim() > kMostDimensions) return;
  const Index dim = map.net.dim();
  Matrix<double> x(2, dim, 0.3), y(2, dim), hessian(2, dim * dim), back(2, dim);
  x(1, 0) = -2;
  double log_det[2];
  if (!accepted([&] { map.evaluate(x, y, log_det, hessian, team); })) return;
  accepted([&] { map.inverse(y, back, NewtonOptions{}, team); });
  write_map(copy, map);
  const BrenierMap again = read_map(copy);
  require(again.theta == map.theta && again.step == map.step && again.ratio == map.ratio,
          "the copy of a map");
}

void check_potential(const LearnedPotential& potential, Team& team) {
  if (potential.net.parameters() > kMostParameters || potential.net.dim() > kMostDimensions) return;
  Matrix<double> x(2, potential.net.dim(), 0.3), slope(2, potential.net.dim());
  double value[2];
  accepted([&] { potential.evaluate(x, value, slope, team); });
}

/// A folder with the parts of a run, whose checkpoint is the input.
app::RunFolder run_folder() {
  const std::filesystem::path path = scratch("run");
  for (const char* part : {"clouds", "maps", "figures"}) std::filesystem::create_directories(path / part);
  std::ofstream(path / "config.toml").flush();
  return app::RunFolder::open(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path file = scratch("file"), copy = scratch("copy.safetensors");
  static const app::RunFolder folder = run_folder();
  static Team team(1);
  const std::string bytes = safetensors_of(data, size);
  put(file, bytes);
  TensorFile content;
  if (!accepted([&] { content = read_safetensors(file); })) return 0;
  check_tensors(content, copy);
  BrenierMap map{Icnn(Architecture{}), {}};
  if (accepted([&] { map = read_map(file); })) check_map(map, copy, team);
  LearnedPotential potential{Icnn(Architecture{}), {}};
  if (accepted([&] { potential = read_potential(file); })) check_potential(potential, team);
  const auto found = content.metadata.find("format");
  if (found == content.metadata.end() || !found->second.starts_with("brenier check")) return 0;
  put(folder.checkpoint(), bytes);
  for (const bool second_order : {false, true}) {
    accepted([&] {
      const app::Saved saved = folder.read_checkpoint(second_order);
      require(saved.step >= 1 && saved.cloud.x().rows() >= 1, "a checkpoint");
      for (const double value : saved.theta) require(std::isfinite(value), "its parameters");
    });
  }
  return 0;
}
