// SPDX-License-Identifier: MIT
// A flow as bytes, between two steps.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/safetensors.hpp"
#include "engine/src/flow/state.hpp"
#include "engine/src/maps/map_chain.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

constexpr const char* kFormat = "brenier flow 1";
constexpr const char* kName = "checkpoint";
constexpr Index kMarks = 8;  // points that an initial density is known by

void add(TensorFile& file, const std::string& name, std::vector<double> values) {
  const Index size = static_cast<Index>(values.size());
  file.tensors.push_back({name, {size}, std::move(values), DType::float64});
}
void add(TensorFile& file, const std::string& name, const Matrix<double>& matrix) {
  file.tensors.push_back({name, {matrix.rows(), matrix.cols()}, matrix.elements(), DType::float64});
}

void add(TensorFile& file, const std::string& name, const Trajectory& cloud) {
  add(file, name + ".x", cloud.x());
  if (cloud.has_density()) add(file, name + ".log_density", cloud.log_density());
  if (cloud.has_previous()) add(file, name + ".previous", cloud.previous());
  if (!cloud.jacobian().empty()) add(file, name + ".jacobian", cloud.jacobian());
}

/// Reads what the functions above write.
class Reader {
 public:
  explicit Reader(const TensorFile& file) : file_(file) {}

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  const std::vector<double>& values(const std::string& name) const { return tensor(name).values; }
  Matrix<double> matrix(const std::string& name) const {
    Matrix<double> out;
    const Tensor* found = file_.find(name);
    if (!found) return out;
    if (found->shape.size() != 2) fail("has a tensor " + name + " that is no matrix");
    out = Matrix<double>(found->shape[0], found->shape[1]);
    out.elements() = found->values;
    return out;
  }
  Trajectory trajectory(const std::string& name, bool second_order) const {
    static_cast<void>(tensor(name + ".x"));
    const Tensor* density = file_.find(name + ".log_density");
    Matrix<double> previous = matrix(name + ".previous"), jacobian = matrix(name + ".jacobian");
    if (!second_order && !previous.empty())
      throw ValueError(std::string(kName) + ": of a flow of order 2, and this one has order 1");
    return Trajectory::restore(matrix(name + ".x"), density ? density->values : std::vector<double>(),
                               std::move(previous), std::move(jacobian), second_order);
  }
  double number(const char* name, double least, double most, bool whole) const {
    const std::vector<double>& one = values(name);
    if (one.size() != 1 || !(one[0] >= least && one[0] <= most) || (whole && std::floor(one[0]) != one[0]))
      fail(std::string("has a ") + name + " that no flow has");
    return one[0];
  }
  [[noreturn]] void fail(const std::string& what) const { throw IoError(std::string(kName) + ": " + what); }

 private:
  const Tensor& tensor(const std::string& name) const {
    const Tensor* found = file_.find(name);
    if (!found) fail("has no " + name);
    return *found;
  }
  const TensorFile& file_;
};

/// Whether the logarithm of a density is the same by two processors and compilers.
bool near(double a, double b) {
  return a == b || std::abs(a - b) <= 1e-9 * (1 + std::abs(a));
}

/// The first of some points at which a density has not the logarithms that were saved; nothing where it has.
std::optional<std::size_t> first_difference(const std::vector<double>& saved,
                                            const std::vector<double>& here) {
  for (std::size_t i = 0; i < here.size(); ++i)
    if (!near(saved[i], here[i])) return i;
  return std::nullopt;
}

}  // namespace

template <class T>
std::vector<std::byte> Flow<T>::save() const {
  const State& s = *state_;
  TensorFile file;
  file.metadata = {{"format", kFormat}, {"functional", s.functional.describe()}};
  add(file, "cloud", s.cloud);
  for (std::size_t k = 0; k < s.tracked.size(); ++k) add(file, "tracked." + std::to_string(k), s.tracked[k]);
  if (!s.judged.empty()) {
    const JudgedParticles::Parts parts = s.judged.parts();
    add(file, "judged", parts.points);
    if (s.judged.has_law()) add(file, "judged.law", parts.law);
    add(file, "judged.neighbours", std::vector<double>{static_cast<double>(parts.neighbours)});
    add(file, "judged.held_out", std::vector<double>(parts.held_out.begin(), parts.held_out.end()));
    add(file, "judged.rows", std::vector<double>(parts.cloud_rows.begin(), parts.cloud_rows.end()));
    add(file, "judged.weights", parts.weights);
    add(file, "judged.distance", parts.distance);
  }
  if (s.law) {
    const Cloud marks = s.law->sample(kMarks);
    add(file, "law.x", marks.x);
    add(file, "law.log_density", marks.log_density);
  }
  add(file, "theta", std::vector<double>(s.theta.begin(), s.theta.end()));
  const std::pair<const char*, double> numbers[] = {{"gradient_scale", s.gradient_scale},
                                                    {"draws", s.draws},
                                                    {"step", s.steps},
                                                    {"first_step", s.first_step},
                                                    {"replaced", s.replaced ? 1.0 : 0.0},
                                                    {"problems", s.problems},
                                                    {"next_tau", s.next_tau},
                                                    {"time", s.clock},
                                                    {"last_length", s.last_length}};
  for (const auto& [name, value] : numbers) add(file, name, std::vector<double>{value});
  add_maps(s.maps, file);
  return safetensors_bytes(file);
}

template <class T>
void Flow<T>::load(std::span<const std::byte> bytes) {
  State& s = *state_;
  const TensorFile file = parse_safetensors(bytes, kName);
  const Reader in(file);
  const auto format = file.metadata.find("format");
  if (format == file.metadata.end() || format->second != kFormat)
    in.fail("these are not the bytes of a flow that this version saved");
  const auto described = file.metadata.find("functional");
  if (described == file.metadata.end() || described->second != s.functional.describe()) {
    throw ValueError(std::string(kName) +
                     ": of a flow of F = " + (described == file.metadata.end() ? "?" : described->second) +
                     ", and this one has F = " + s.functional.describe());
  }
  const bool second_order = s.options.order == 2;
  const auto of_this_flow = [&](Trajectory cloud) {
    if (cloud.x().cols() != s.net.dim())
      throw ShapeError(std::string(kName) + ": of dimension " + std::to_string(cloud.x().cols()) +
                       ", and this flow has dimension " + std::to_string(s.net.dim()));
    return cloud;
  };
  // Everything is read and checked before anything changes.
  Trajectory cloud = of_this_flow(in.trajectory("cloud", second_order));
  s.check_cloud(cloud);
  std::vector<Trajectory> tracked;
  for (std::string name = "tracked.0"; in.has(name + ".x");
       name = "tracked." + std::to_string(tracked.size()))
    tracked.push_back(of_this_flow(in.trajectory(name, second_order)));
  JudgedParticles judged;
  if (in.has("judged.x")) {
    JudgedParticles::Parts parts;
    parts.points = of_this_flow(in.trajectory("judged", second_order));
    const Index n = parts.points.x().rows(), d = s.net.dim();
    parts.neighbours =
        static_cast<Index>(in.number("judged.neighbours", 0, 2 * JudgedParticles::kScoreDim, true));
    for (const double one : in.values("judged.held_out")) parts.held_out.push_back(one != 0);
    const Index count = static_cast<Index>(parts.held_out.size());
    for (const double row : in.values("judged.rows")) {
      if (!(row >= 0 && row < static_cast<double>(cloud.x().rows())))
        in.fail("has judged.rows beyond the cloud");
      parts.cloud_rows.push_back(static_cast<Index>(row));
    }
    parts.weights = in.values("judged.weights");
    parts.distance = in.matrix("judged.distance");
    const bool scores = parts.neighbours > 0;
    if (in.has("judged.law.x")) parts.law = of_this_flow(in.trajectory("judged.law", second_order));
    if (n != count * (parts.neighbours + 1) || static_cast<Index>(parts.cloud_rows.size()) > count ||
        (parts.law.x().rows() != JudgedParticles::kLawParticles &&
         (parts.law.x().rows() != 0 || !s.objective.interaction.empty())) ||
        static_cast<Index>(parts.weights.size()) != count ||
        (scores && (parts.neighbours != 2 * d || !parts.points.has_density())) ||
        parts.distance.rows() != count || parts.distance.cols() != d)
      in.fail("has judged particles that do not fit each other");
    judged = JudgedParticles::restore(std::move(parts));
  }
  std::vector<BrenierMap> maps = maps_in(file, kName);
  if (!maps.empty() && maps.front().net.parameters() != s.net.parameters())
    throw ShapeError(std::string(kName) + ": its maps have " + std::to_string(maps.front().net.parameters()) +
                     " parameters, the network has " + std::to_string(s.net.parameters()));
  const std::vector<double>& theta = in.values("theta");
  if (!theta.empty() && static_cast<Index>(theta.size()) != s.net.parameters())
    throw ShapeError(std::string(kName) + ": " + std::to_string(theta.size()) +
                     " parameters, the network has " + std::to_string(s.net.parameters()));
  if (!std::all_of(theta.begin(), theta.end(), [](double one) { return std::isfinite(one); }))
    in.fail("has parameters that are not finite");
  constexpr double most = std::numeric_limits<double>::max();
  const double gradient_scale = in.number("gradient_scale", 0, most, false);
  const double draws = in.number("draws", 0, 4294967295.0, true);
  const double step = in.number("step", 0, 1e9, true);
  const double first_step = in.number("first_step", 0, step, true);
  const bool replaced = in.number("replaced", 0, 1, true) != 0;
  const double problems = in.number("problems", 0, 4294967295.0, true);
  const double next_tau = in.number("next_tau", std::numeric_limits<double>::min(), most, false);
  const double clock = in.number("time", -most, most, false);
  const double last_length = in.number("last_length", -most, most, false);
  std::optional<Density> law = replaced ? s.law : s.first_law;
  if (law && in.has("law.x")) {
    const Matrix<double> points = in.matrix("law.x");
    const std::vector<double>& saved = in.values("law.log_density");
    if (points.cols() != s.net.dim() || points.rows() != static_cast<Index>(saved.size()))
      in.fail("has an initial density that does not fit it");
    const std::vector<double> here = law->log_density(points.view());
    const std::optional<std::size_t> other = first_difference(saved, here);
    if (other && !replaced) {
      throw ValueError(std::string(kName) + ": of a flow from another initial density, whose logarithm is " +
                       show(saved[*other]) + " where that of this flow is " + show(here[*other]) +
                       "; load it into a flow that starts from the density that it was saved with");
    }
    if (other) law.reset();
  } else if (replaced) {
    law.reset();
  }

  s.law = std::move(law);
  s.cloud = std::move(cloud);
  s.tracked = std::move(tracked);
  s.judged = std::move(judged);
  s.cloud.run_on(s.exact);
  for (Trajectory& held_out : s.tracked) held_out.run_on(s.exact);
  s.judged.run_on(s.exact);
  s.maps = std::move(maps);
  s.theta.assign(theta.begin(), theta.end());
  s.gradient_scale = gradient_scale;
  s.draws = static_cast<std::uint32_t>(draws);
  s.pool.clear();
  s.steps = static_cast<int>(step);
  s.first_step = static_cast<int>(first_step);
  s.replaced = replaced;
  s.problems = static_cast<std::uint32_t>(problems);
  if (s.adaptive()) s.next_tau = next_tau;
  s.clock = clock;
  s.last_length = last_length;
  s.far_checked = s.problems > 0;
  s.known.reset();
  s.evaluation.reset();
  s.set_time(s.time());
}

template std::vector<std::byte> Flow<float>::save() const;
template std::vector<std::byte> Flow<double>::save() const;
template void Flow<float>::load(std::span<const std::byte>);
template void Flow<double>::load(std::span<const std::byte>);

}  // namespace brenier
