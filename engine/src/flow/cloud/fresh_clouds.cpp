// SPDX-License-Identifier: MIT
// Clouds of the initial density for the inner problem, which no step has fitted yet or few have.
#include <algorithm>
#include <utility>

#include "brenier/base/error.hpp"
#include "engine/src/flow/state.hpp"

namespace brenier {

/// Whether an internal energy needs nothing of densities but log-determinants. A device has these beside the positions.
template <class T>
bool Flow<T>::State::entropies_alone() const {
  return !exact.reside &&
         std::all_of(objective.internal.begin(), objective.internal.end(),
                     [](const InternalTerm& term) { return term.form == InternalTerm::Form::entropy; });
}

/// Cloud `number` of the source, before any map.
template <class T>
Trajectory Flow<T>::State::drawn(std::uint32_t number) const {
  Cloud given = source(number);
  if (given.x.cols() != cloud.dim() || given.log_density.empty() == cloud.has_density()) {
    throw ShapeError(
        "flow: a redrawn cloud differs from the initial one in dimension or in having log-densities");
  }
  const bool without = entropies_alone();
  if (without) given.log_density.clear();
  Trajectory out(std::move(given), options.order == 2, !without);
  out.run_on(exact);
  return out;
}

/// The next cloud of the source, through all maps so far.
template <class T>
Trajectory::Base Flow<T>::State::fresh_base(MapBase kind, double ratio) {
  const std::uint32_t size = static_cast<std::uint32_t>(options.inner.pool);
  const std::uint32_t number = size > 0 ? draws % size + 1 : draws + 1;
  ++draws;
  Drawn alone;
  if (size > 0) pool.resize(size);
  Drawn& one = size > 0 ? pool[number - 1] : alone;
  if (one.cloud.size() == 0) one = {drawn(number), 0};
  for (; one.maps < maps.size(); ++one.maps) one.cloud.advance(maps[one.maps], team);
  Trajectory::Base out = one.cloud.base(kind, ratio, team);
  if (entropies_alone() && cloud.has_density()) out.log_density.assign(out.x.rows(), 0.0);  // any
  return out;
}

template Trajectory::Base Flow<float>::State::fresh_base(MapBase, double);
template Trajectory::Base Flow<double>::State::fresh_base(MapBase, double);

}  // namespace brenier
