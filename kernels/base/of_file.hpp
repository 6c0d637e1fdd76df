// SPDX-License-Identifier: MIT
// Errors that say which file they are of.
#pragma once

#include <filesystem>
#include <string>

#include "brenier/base/error.hpp"

namespace brenier {

/// What `body` throws of what was read from a file, with the name of the file in front.
template <class Body>
void of_file(const std::filesystem::path& path, const Body& body) {
  const std::string at = "'" + path.string() + "': ";
  try {
    body();
  } catch (const IoError& error) {
    throw IoError(at + error.what());
  } catch (const ShapeError& error) {
    throw ShapeError(at + error.what());
  } catch (const ValueError& error) {
    throw ValueError(at + error.what());
  }
}

}  // namespace brenier
