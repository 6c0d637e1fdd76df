// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <filesystem>

namespace brenier::app {

/// The right to write into a run folder: of all processes, on all hosts that see the folder, one has it.
///
/// The file `.brenier-lock` names its owner. It is made by link(), which is atomic on network file systems too.
/// The lock of a process of this host that has ended is taken over; one of another host is not, since nothing
/// here tells whether that process lives.
class RunLock {
 public:
  /// IoError: another process writes there (its number and host are named), or the folder cannot be written.
  explicit RunLock(const std::filesystem::path& folder);
  ~RunLock() { release(); }
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Gives the right back; a second time does nothing.
  void release() noexcept;

  static const char* file_name() { return ".brenier-lock"; }

 private:
  std::filesystem::path file_;
  ino_t inode_ = 0;
};

/// Whether a process of this host lives. A zombie does not.
bool is_alive(long process);

}  // namespace brenier::app
