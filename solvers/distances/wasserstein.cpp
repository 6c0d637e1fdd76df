// SPDX-License-Identifier: MIT
#include "brenier/wasserstein.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>

#include "brenier/base/error.hpp"

namespace brenier {
namespace {

void check_points(const char* function, const double* values, Index count) {
  for (Index k = 0; k < count; ++k) {
    if (!std::isfinite(values[k]))
      throw ValueError(std::string(function) + ": a point has the coordinate " + std::to_string(values[k]) +
                       "; all must be finite");
  }
}

std::vector<double> least_of_columns(const Matrix<double>& cost) {
  std::vector<double> least(cost.cols(), std::numeric_limits<double>::infinity());
  for (Index i = 0; i < cost.rows(); ++i) {
    for (Index j = 0; j < cost.cols(); ++j) least[j] = std::min(least[j], cost(i, j));
  }
  return least;
}

/// Dual variables of an assignment problem, and the matching so far.
class Assignment {
 public:
  explicit Assignment(const Matrix<double>& cost)
      : cost_(cost),
        n_(cost.rows()),
        row_price_(n_, 0.0),
        column_price_(least_of_columns(cost)),
        row_of_(n_, -1),
        column_of_(n_, -1),
        distance_(n_),
        before_(n_),
        reached_(n_) {
    // Each column's price is its least cost, taken by the row that has it: most rows need no path.
    for (Index i = 0; i < n_; ++i) {
      for (Index j = 0; j < n_ && column_of_[i] < 0; ++j) {
        if (row_of_[j] < 0 && cost(i, j) == column_price_[j]) match(i, j);
      }
    }
  }

  std::vector<Index> solve() {
    for (Index i = 0; i < n_; ++i) {
      if (column_of_[i] < 0) augment(i);
    }
    return column_of_;
  }

 private:
  void match(Index row, Index column) {
    row_of_[column] = row;
    column_of_[row] = column;
  }
  double reduced(Index row, Index column) const {
    return cost_(row, column) - row_price_[row] - column_price_[column];
  }

  /// Dijkstra over reduced costs, from a free row to the nearest free column; then prices and matching.
  void augment(Index start) {
    std::fill(reached_.begin(), reached_.end(), char{0});
    for (Index j = 0; j < n_; ++j) {
      distance_[j] = reduced(start, j);
      before_[j] = start;
    }
    std::vector<Index> columns;
    Index end = -1;
    double length = 0;
    for (;;) {
      Index nearest = -1;
      for (Index j = 0; j < n_; ++j) {
        if (!reached_[j] && (nearest < 0 || distance_[j] < distance_[nearest])) nearest = j;
      }
      length = distance_[nearest];
      if (row_of_[nearest] < 0) {
        end = nearest;
        break;
      }
      reached_[nearest] = 1;
      columns.push_back(nearest);
      const Index row = row_of_[nearest];
      for (Index j = 0; j < n_; ++j) {
        if (reached_[j]) continue;
        const double through = length + reduced(row, j);
        if (through < distance_[j]) {
          distance_[j] = through;
          before_[j] = row;
        }
      }
    }
    row_price_[start] += length;
    for (const Index j : columns) {
      row_price_[row_of_[j]] += length - distance_[j];
      column_price_[j] -= length - distance_[j];
    }
    for (Index j = end; j >= 0;) {
      const Index row = before_[j];
      const Index next = column_of_[row];
      match(row, j);
      j = row == start ? -1 : next;
    }
  }

  const Matrix<double>& cost_;
  Index n_;
  std::vector<double> row_price_, column_price_;
  std::vector<Index> row_of_, column_of_;
  std::vector<double> distance_;
  std::vector<Index> before_;
  std::vector<char> reached_;
};

/// Dual variables of a transport problem between n rows of mass m and m columns of mass n, in units that make the
/// masses whole numbers, and the plan so far. As an assignment, but a row may have several columns, and a column several
/// rows.
class Plan {
 public:
  explicit Plan(const Matrix<double>& cost)
      : cost_(cost),
        n_(cost.rows()),
        m_(cost.cols()),
        row_price_(n_, 0.0),
        column_price_(least_of_columns(cost)),
        left_(n_, m_ / std::gcd(n_, m_)),
        room_(m_, n_ / std::gcd(n_, m_)),
        mass_(static_cast<std::size_t>(n_ * m_), 0),
        rows_of_(m_),
        distance_(m_),
        before_(m_),
        via_(n_),
        reached_(m_) {
    for (Index i = 0; i < n_; ++i) {
      for (Index j = 0; j < m_ && left_[i] > 0; ++j) {
        if (room_[j] == 0 || cost(i, j) != column_price_[j]) continue;
        const std::int64_t amount = std::min(left_[i], room_[j]);
        add(i, j, amount);
        left_[i] -= amount;
        room_[j] -= amount;
      }
    }
  }

  /// The mean cost of the best plan.
  double solve() {
    for (Index i = 0; i < n_; ++i) {
      while (left_[i] > 0) augment(i);
    }
    double sum = 0;
    for (Index i = 0; i < n_; ++i) {
      for (Index j = 0; j < m_; ++j) sum += static_cast<double>(mass(i, j)) * cost_(i, j);
    }
    return sum * static_cast<double>(std::gcd(n_, m_)) / (static_cast<double>(n_) * static_cast<double>(m_));
  }

 private:
  std::int64_t& mass(Index row, Index column) { return mass_[static_cast<std::size_t>(row * m_ + column)]; }
  double reduced(Index row, Index column) const {
    return cost_(row, column) - row_price_[row] - column_price_[column];
  }
  void add(Index row, Index column, std::int64_t amount) {
    std::int64_t& here = mass(row, column);
    if (here == 0) rows_of_[column].push_back(row);
    here += amount;
    if (here == 0) std::erase(rows_of_[column], row);
  }

  /// Dijkstra over reduced costs, from a row with mass left to the nearest column with room; then prices, and as much
  /// as the path takes.
  void augment(Index start) {
    constexpr Index kNone = -1;
    std::fill(reached_.begin(), reached_.end(), char{0});
    std::fill(via_.begin(), via_.end(), kNone);
    std::vector<Index> columns, rows;
    const auto reach = [&](Index row, double length) {
      for (Index k = 0; k < m_; ++k) {
        const double through = length + reduced(row, k);
        if (reached_[k] || (row != start && !(through < distance_[k]))) continue;
        distance_[k] = through;
        before_[k] = row;
      }
    };
    reach(start, 0);
    Index end = kNone;
    double length = 0;
    for (;;) {
      Index nearest = kNone;
      for (Index k = 0; k < m_; ++k) {
        if (!reached_[k] && (nearest < 0 || distance_[k] < distance_[nearest])) nearest = k;
      }
      length = distance_[nearest];
      if (room_[nearest] > 0) {
        end = nearest;
        break;
      }
      reached_[nearest] = 1;
      columns.push_back(nearest);
      for (const Index row : rows_of_[nearest]) {
        if (row == start || via_[row] != kNone) continue;
        via_[row] = nearest;
        rows.push_back(row);
        reach(row, length);
      }
    }
    row_price_[start] += length;
    for (const Index row : rows) row_price_[row] += length - distance_[via_[row]];
    for (const Index column : columns) column_price_[column] -= length - distance_[column];

    std::int64_t amount = std::min(left_[start], room_[end]);
    for (Index row = before_[end]; row != start; row = before_[via_[row]])
      amount = std::min(amount, mass(row, via_[row]));
    for (Index column = end;;) {
      const Index row = before_[column];
      add(row, column, amount);
      if (row == start) break;
      column = via_[row];
      add(row, column, -amount);
    }
    left_[start] -= amount;
    room_[end] -= amount;
  }

  const Matrix<double>& cost_;
  Index n_, m_;
  std::vector<double> row_price_, column_price_;
  std::vector<std::int64_t> left_, room_;    // mass that has no column yet, and that a column can still take
  std::vector<std::int64_t> mass_;           // (n, m): the plan
  std::vector<std::vector<Index>> rows_of_;  // of each column: those whose mass it takes
  std::vector<double> distance_;
  std::vector<Index> before_, via_;  // the row before a column of the path, and the column before a row
  std::vector<char> reached_;
};

/// |x_i - y_j|^2 (n, m). Throws ValueError.
Matrix<double> squared_distances(const char* function, MatrixView<const double> x,
                                 MatrixView<const double> y) {
  for (const Index points : {x.rows, y.rows}) {
    if (points > kMostAssigned) {
      throw ValueError(std::string(function) + ": " + std::to_string(points) + " points; at most " +
                       std::to_string(kMostAssigned) + " can be assigned exactly, take a subset");
    }
  }
  for (Index i = 0; i < x.rows; ++i) check_points(function, x.row(i), x.cols);
  for (Index j = 0; j < y.rows; ++j) check_points(function, y.row(j), y.cols);
  Matrix<double> cost(x.rows, y.rows);
  for (Index i = 0; i < x.rows; ++i) {
    for (Index j = 0; j < y.rows; ++j) {
      double square = 0;
      for (Index c = 0; c < x.cols; ++c) square += (x(i, c) - y(j, c)) * (x(i, c) - y(j, c));
      cost(i, j) = square;
    }
  }
  return cost;
}

}  // namespace

double wasserstein_1d(std::vector<double> x, std::span<const double> y) {
  if (x.empty() || y.empty()) throw ShapeError("wasserstein_1d: a cloud without points");
  check_points("wasserstein_1d", x.data(), static_cast<Index>(x.size()));
  check_points("wasserstein_1d", y.data(), static_cast<Index>(y.size()));
  std::vector<double> target(y.begin(), y.end());
  std::sort(x.begin(), x.end());
  std::sort(target.begin(), target.end());
  // Both quantile functions are steps; between two steps of either the distance is constant. Levels are
  // counted in units of 1/(n m), which are whole numbers.
  const std::size_t n = x.size(), m = target.size();
  double sum = 0;
  for (std::size_t i = 0, j = 0, level = 0; i < n && j < m;) {
    const std::size_t next = std::min((i + 1) * m, (j + 1) * n);
    const double distance = x[i] - target[j];
    sum += static_cast<double>(next - level) * distance * distance;
    level = next;
    if (level == (i + 1) * m) ++i;
    if (level == (j + 1) * n) ++j;
  }
  return std::sqrt(sum / (static_cast<double>(n) * static_cast<double>(m)));
}

std::vector<Index> assign(const Matrix<double>& cost) {
  if (cost.rows() < 1 || cost.rows() != cost.cols()) {
    throw ShapeError("assign: a cost matrix of " + std::to_string(cost.rows()) + " x " +
                     std::to_string(cost.cols()) + "; it must be square, with at least one row");
  }
  check_points("assign", cost.data(), cost.rows() * cost.cols());
  return Assignment(cost).solve();
}

double wasserstein_assignment(MatrixView<const double> x, MatrixView<const double> y) {
  if (x.rows < 1 || x.rows != y.rows || x.cols != y.cols) {
    throw ShapeError("wasserstein_assignment: clouds of " + std::to_string(x.rows) + " x " +
                     std::to_string(x.cols) + " and " + std::to_string(y.rows) + " x " +
                     std::to_string(y.cols) + "; both need as many points, at least one, of one dimension");
  }
  const Index n = x.rows;
  const Matrix<double> cost = squared_distances("wasserstein_assignment", x, y);
  const std::vector<Index> column = assign(cost);
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += cost(i, column[i]);
  return std::sqrt(sum / static_cast<double>(n));
}

double wasserstein_transport(MatrixView<const double> x, MatrixView<const double> y) {
  if (x.rows < 1 || y.rows < 1 || x.cols != y.cols) {
    throw ShapeError("wasserstein_transport: clouds of " + std::to_string(x.rows) + " x " +
                     std::to_string(x.cols) + " and " + std::to_string(y.rows) + " x " +
                     std::to_string(y.cols) + "; both need points, of one dimension");
  }
  if (x.rows == y.rows) return wasserstein_assignment(x, y);
  // The fewer points are the columns, which every step of a path is chosen from.
  const bool turn = x.rows < y.rows;
  const Matrix<double> cost = turn ? squared_distances("wasserstein_transport", y, x)
                                   : squared_distances("wasserstein_transport", x, y);
  return std::sqrt(Plan(cost).solve());
}

}  // namespace brenier
