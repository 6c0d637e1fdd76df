// SPDX-License-Identifier: MIT
// `brenier export`: the clouds of a run in the formats of other programs.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "engine/src/config/config.hpp"
#include "kernels/base/show.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

/// RFC 4648.
std::string base64(std::span<const std::byte> bytes) {
  constexpr const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve(4 * (bytes.size() + 2) / 3);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t block = 0;
    for (std::size_t k = 0; k < 3; ++k)
      block = (block << 8) | (k < count ? std::to_integer<std::uint32_t>(bytes[i + k]) : 0);
    for (std::size_t k = 0; k < 4; ++k) out += k <= count ? digits[(block >> (18 - 6 * k)) & 63] : '=';
  }
  return out;
}

/// The binary content of a DataArray: its size in bytes, then the numbers, little-endian.
template <class T>
std::string binary(const std::vector<T>& values) {
  const std::uint64_t bytes = values.size() * sizeof(T);
  std::vector<std::byte> all(sizeof bytes + bytes);
  std::memcpy(all.data(), &bytes, sizeof bytes);
  if (bytes > 0) std::memcpy(all.data() + sizeof bytes, values.data(), bytes);
  return base64(all);
}

template <class T>
std::string data_array(const std::string& name, int components, const std::vector<T>& values) {
  const char* type = std::is_same_v<T, double> ? "Float64" : "Int64";
  return "        <DataArray type=\"" + std::string(type) + "\" Name=\"" + name + "\" NumberOfComponents=\"" +
         std::to_string(components) + "\" format=\"binary\">" + binary(values) + "</DataArray>\n";
}

/// A cloud as PolyData of VTK's XML files: points with a vertex each, in the first three coordinates; "x" has all of
/// them where there are more. Log-densities and densities where they are known.
std::string polydata(const Matrix<double>& x, const std::vector<double>& log_density) {
  const Index n = x.rows(), d = x.cols();
  std::vector<double> points(static_cast<std::size_t>(3 * n), 0.0);
  std::vector<std::int64_t> vertices(static_cast<std::size_t>(n)), ends(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < std::min<Index>(3, d); ++c) points[3 * i + c] = x(i, c);
    vertices[i] = i;
    ends[i] = i + 1;
  }
  const std::string count = std::to_string(n);
  std::string data;
  if (d > 3) data += data_array("x", static_cast<int>(d), x.elements());
  if (!log_density.empty()) {
    std::vector<double> density;
    for (const double value : log_density) density.push_back(std::exp(value));
    data += data_array("density", 1, density) + data_array("log_density", 1, log_density);
  }
  return "<?xml version=\"1.0\"?>\n"
         "<VTKFile type=\"PolyData\" version=\"1.0\" byte_order=\"LittleEndian\" header_type=\"UInt64\">\n"
         "  <PolyData>\n    <Piece NumberOfPoints=\"" +
         count + "\" NumberOfVerts=\"" + count +
         "\" NumberOfLines=\"0\" NumberOfStrips=\"0\" NumberOfPolys=\"0\">\n"
         "      <PointData>\n" +
         data + "      </PointData>\n      <Points>\n" + data_array("Points", 3, points) +
         "      </Points>\n      <Verts>\n" + data_array("connectivity", 1, vertices) +
         data_array("offsets", 1, ends) + "      </Verts>\n    </Piece>\n  </PolyData>\n</VTKFile>\n";
}

void write(const fs::path& file, const std::string& text) {
  write_file_atomically(file, std::as_bytes(std::span<const char>(text)));
}

/// Writes OUT/step_000010.vtp for each cloud of the run, and OUT/flow.pvd, which has their times.
void export_vtk(const fs::path& run, const fs::path& out, std::ostream& log) {
  const RunFolder folder = RunFolder::open(run);
  folder.check_output(out);
  const Config config = load_config(folder.config());
  const std::vector<HistoryRow> history =
      parse_history(read_text(folder.history()), folder.history().string());
  std::error_code code;
  fs::create_directories(out, code);
  if (code)
    throw WriteError("'" + out.string() + "': the folder cannot be made: " + why_not_made(out, code.value()),
                     code.value());
  std::string collection;
  int files = 0;
  for (const HistoryRow& row : history) {
    if (!fs::exists(folder.cloud(row.step), code)) continue;
    const Matrix<double> x = read_npy(folder.cloud(row.step));
    std::vector<double> log_density;
    if (fs::exists(folder.log_density(row.step), code))
      log_density = read_npy_vector(folder.log_density(row.step));
    if (x.cols() != config.cloud.dim ||
        (!log_density.empty() && static_cast<Index>(log_density.size()) != x.rows()))
      throw IoError("'" + folder.cloud(row.step).string() + "' does not fit the run: its shape is (" +
                    std::to_string(x.rows()) + ", " + std::to_string(x.cols()) + ")");
    const std::string name = folder.cloud(row.step).stem().string() + ".vtp";
    write(out / name, polydata(x, log_density));
    collection +=
        "    <DataSet timestep=\"" + exact_text(row.time) + "\" part=\"0\" file=\"" + name + "\"/>\n";
    ++files;
  }
  write(out / "flow.pvd",
        "<?xml version=\"1.0\"?>\n"
        "<VTKFile type=\"Collection\" version=\"1.0\" byte_order=\"LittleEndian\" header_type=\"UInt64\">\n"
        "  <Collection>\n" +
            collection + "  </Collection>\n</VTKFile>\n");
  log << files << " clouds in " << out.string() << "; open " << (out / "flow.pvd").string()
      << ", for example with ParaView\n";
}

}  // namespace

Command add_export(CLI::App& app) {
  CLI::App* command = app.add_subcommand("export", "the clouds of a run for other programs");
  struct Arguments {
    fs::path run, out;
    bool vtk = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("RUN", arguments->run, "run folder")->required();
  command->add_flag(
      "--vtk", arguments->vtk,
      "VTK's XML: a .vtp for each cloud, and flow.pvd with their times (the only format so far)");
  command->add_option("-o,--out", arguments->out, "folder to write into (RUN-vtk)");
  return {command, [arguments](const Console& console) {
            fs::path out = arguments->out;
            if (out.empty()) {
              const fs::path run = arguments->run.lexically_normal();
              out = (run.has_filename() ? run : run.parent_path()).string() + "-vtk";
            }
            export_vtk(arguments->run, out, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
