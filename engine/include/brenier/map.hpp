// SPDX-License-Identifier: MIT
// Brenier maps x -> grad u(x) that a flow has learned, and clouds that are carried along by them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/density.hpp"
#include "brenier/device.hpp"
#include "brenier/export.h"
#include "brenier/model/icnn.hpp"
#include "brenier/newton.hpp"

namespace BRENIER_API brenier {

class ResidentCloud;
class ResidentMap;

/// From which points a map of a flow is applied.
enum class MapBase {
  current,       // x_n: a JKO step
  extrapolated,  // x* = x_n + e (x_n - x_{n-1}): a BDF2 step along trajectories
};

/// The gradient of a convex network, with parameters in double precision and physical coordinates.
struct BrenierMap {
  Icnn net;
  std::vector<double> theta;  // net.parameters()
  MapBase base = MapBase::current;
  bool closes_step = true;  // false for the start-up steps of order 2 but the last
  int step = 0;             // the step of the flow it belongs to, from 1
  double time = 0;          // of the flow after this map's step
  double tau = 0;           // length of the JKO problem that it solves
  /// Of the step's length to that of the step before, omega: e = omega^2/(1 + 2 omega), 1/3 for equal steps.
  /// Only where the base is extrapolated.
  double ratio = 1;

  /// Displacements grad u(x) - x (N, d) and, where wanted, log det of the Hessian (N) and the Hessian (N,
  /// d*d). ShapeError: x.cols is not the dimension, results of other shapes, theta of another length. ValueError: a
  /// log-determinant of a network that is not smooth. `ops`: where it is evaluated; all matrices are in host memory.
  void evaluate(MatrixView<const double> x, MatrixView<double> displacement, double* log_det,
                MatrixView<double> hessian, Team& team,
                const Operations<double>& ops = backend<double>("cpu")) const;

  /// x (N, d) with grad u(x_i) = y_i, by Newton's method from x = y. See invert_gradient() for how it ends.
  /// ShapeError: columns of y or x that are not the dimension, or other rows; theta of another length.
  /// ValueError: a network that is not smooth.
  NewtonReport inverse(MatrixView<const double> y, MatrixView<double> x, const NewtonOptions& options,
                       Team& team, const Operations<double>& ops = backend<double>("cpu")) const;
};

/// One map as a .safetensors file: a tensor for each parameter (names as in Icnn::tensors()), shape and role
/// in the metadata. IoError as for write_safetensors.
void write_map(const std::filesystem::path& path, const BrenierMap& map);
/// IoError where the file is no such map, or damaged; the message names the tensor and what was expected.
/// `checked`: whether it has a checksum; files of earlier versions have none.
BrenierMap read_map(const std::filesystem::path& path, bool* checked = nullptr);

/// Maps of one network as the bytes of a .safetensors file, and back: those of Flow::maps(), in their order.
/// ValueError: no maps. ShapeError: of several networks. IoError, with `name`: bytes that are no such file, or damaged.
std::vector<std::byte> map_bytes(const std::vector<BrenierMap>& maps);
std::vector<BrenierMap> parse_maps(std::span<const std::byte> bytes, const std::string& name = "maps");

/// A cloud on its way through a flow: positions, running log-densities, and what second-order steps need.
class Trajectory {
 public:
  Trajectory() = default;
  /// `second_order` keeps the cloud before, and with `jacobians` those of the last step (N d^2 doubles): they
  /// carry densities and tell whether a step is admissible; without densities a cloud can follow without
  /// them, and does by default. ValueError: no particles, positions that are not finite, densities without
  /// Jacobians at the second order. ShapeError: log-densities of another length.
  Trajectory(Cloud start, bool second_order, std::optional<bool> jacobians = {});

  /// (N, d). A cloud that lies on a device (run_on()) is brought here by the first call after a map: not by two threads
  /// at once.
  const Matrix<double>& x() const {
    if (!here_) bring();
    return x_;
  }
  /// N, or empty; likewise.
  const std::vector<double>& log_density() const {
    if (!here_) bring();
    return log_density_;
  }
  Index size() const { return rows_; }                          // N
  Index dim() const { return cols_; }                           // d
  const Matrix<double>& previous() const { return previous_; }  // before the last step, or empty
  const Matrix<double>& jacobian() const { return jacobian_; }  // (N, d*d) of the last step, or empty
  bool has_density() const { return density_; }
  bool has_previous() const { return !previous_.empty(); }

  /// Where maps are applied from now on, that of the CPU at first: backend<double>() of a device, which is current
  /// whenever the trajectory moves (DeviceScope). A first-order cloud lies there from its first map on, and its copies
  /// share what does not change.
  void run_on(const Operations<double>& ops);
  /// The cloud on the device, or null.
  const ResidentCloud* resident() const { return resident_.get(); }
  /// A first-order one that lies on the device of `ops`, see run_on(), from the start: its particles are finite.
  static Trajectory on(const Operations<double>& ops, std::shared_ptr<const ResidentCloud> cloud);
  /// Its particles into arrays of the host program on that device: what Flow::get_cloud() does.
  void write(const DeviceResults& to) const;

  /// Points and log-densities that a map of this kind starts from.
  struct Base {
    Matrix<double> x;
    std::vector<double> log_density;  // empty where not known
    bool admissible = true;           // false: the extrapolation is known not to be monotone at some particle
    /// Of a cloud that lies on a device; x and log_density are empty then.
    std::shared_ptr<const ResidentCloud> resident{};
  };
  /// `ratio` as in BrenierMap, > 0. ValueError: an extrapolation without a step before.
  Base base(MapBase kind, double ratio, Team& team) const;
  Base base(const BrenierMap& map, Team& team) const { return base(map.base, map.ratio, team); }

  /// Moves the cloud through a map that starts from `from` = base(map). `there`: the parameters of the map on the device, if
  /// they are there and the cloud is.
  void advance(const BrenierMap& map, const Base& from, Team& team, const ResidentMap* there = nullptr);
  void advance(const BrenierMap& map, Team& team, const ResidentMap* there = nullptr) {
    advance(map, base(map, team), team, there);
  }

  /// Smallest log det H that the last map had on this cloud; 0 before, and where densities are not carried.
  double min_log_det() const { return min_log_det_; }
  /// Sum of the squared distances by which the last map moved the particles; 0 before.
  double squares() const { return squares_; }

  /// Restores a saved trajectory, between two steps, without Jacobians where it had none. ShapeError: shapes
  /// that do not agree. ValueError: densities without Jacobians after a step of the second order.
  static Trajectory restore(Matrix<double> x, std::vector<double> log_density, Matrix<double> previous,
                            Matrix<double> jacobian, bool second_order);

 private:
  void bring() const;

  mutable Matrix<double> x_;
  Matrix<double> previous_, step_start_, jacobian_, pending_jacobian_;
  mutable std::vector<double> log_density_;
  Index rows_ = 0, cols_ = 0;
  bool second_order_ = false, jacobians_ = false, density_ = false;
  double min_log_det_ = 0, squares_ = 0;
  mutable std::shared_ptr<const ResidentCloud> resident_;
  mutable bool here_ = true;                        // x and log_density are as they are on the device
  const Operations<double>* operations_ = nullptr;  // null: those of the CPU
};

}  // namespace brenier
