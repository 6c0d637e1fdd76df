// SPDX-License-Identifier: MIT
// Run folders of the command, read with the checks that the command makes.
#include "tools/python/core/arrays.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::python {
namespace {

using app::RunFolder;

/// A run folder and its configuration. IoError, ConfigError as of the command.
struct Run {
  explicit Run(const std::filesystem::path& path)
      : folder(RunFolder::open(path)), config(load_config(folder.config())) {
    if (const std::optional<app::Manifest> manifest = app::Manifest::read(folder.path()))
      app::check_settings(folder.path(), *manifest, config, false);
  }
  RunFolder folder;
  Config config;
};

}  // namespace

void bind_runs(nb::module_& m) {
  nb::class_<Run>(m, "Run")
      .def(nb::init<const std::filesystem::path&>(), "folder"_a)
      .def(
          "law", [](const Run& self) { return self.config.cloud.density; }, "Of the start, or None.")
      .def(
          "start", [](const Run& self) { return give(self.config.initial_cloud().x); },
          "The particles at step 0.")
      .def("dim", [](const Run& self) { return self.config.cloud.dim; })
      .def("start_time", [](const Run& self) { return self.config.flow.start_time; })
      .def("functional", [](const Run& self) { return self.config.functional.describe(); })
      .def(
          "settings", [](const Run& self) { return self.config.resolved; }, "All keys, as TOML.")
      .def(
          "maps",
          [](const Run& self, int steps) {
            return without_gil([&] { return app::read_maps(self.folder.path(), steps); });
          },
          "steps"_a, "Up to that many steps; 0: all.");
  m.def(
      "read_npy", [](const std::filesystem::path& path) { return give(read_npy(path)); }, "path"_a,
      "Points (N, d) of a .npy file.");
  m.def(
      "read_npy_vector", [](const std::filesystem::path& path) { return give(read_npy_vector(path)); },
      "path"_a);
}

}  // namespace brenier::python
