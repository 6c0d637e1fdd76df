// SPDX-License-Identifier: MIT
// Files that appear whole or not at all: a crash or a full disk leaves the earlier file as it was.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>

#include "brenier/base/error.hpp"
#include "brenier/checksum.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// A file or folder that cannot be made or written. `code` is the system's (errno).
class WriteError : public IoError {
 public:
  WriteError(const std::string& message, int code_in) : IoError(message), code(code_in) {}
  int code;
};

/// Writes a file by way of a temporary file in the same folder, which replaces `path` in commit().
/// Without commit() (an exception on the way) the temporary file is removed and `path` stays untouched.
/// A symbolic link is followed. A path that names a device or a pipe is written directly.
class AtomicFile {
 public:
  /// WriteError where the folder is missing or not writable; IoError where `path` is a folder.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes. WriteError with the system's reason (disk full, quota) and the path.
  void write(std::span<const std::byte> bytes);

  /// Of all bytes written so far.
  std::string checksum() const { return checksum_.text(); }

  /// Flushes to the disk, renames, and flushes the folder. WriteError as for write().
  void commit();

 private:
  void discard() noexcept;
  [[noreturn]] void fail(const char* what, int code);

  std::filesystem::path path_;       // as the caller named it, for messages
  std::filesystem::path target_;     // where the bytes shall end
  std::filesystem::path temporary_;  // empty where the target is written directly
  int descriptor_ = -1;
  Checksum checksum_;
};

/// Why a file or folder of that name cannot be made: the system's reason for `code` (errno), and the folder on the way
/// to it that is missing, is none, or may not be written.
std::string why_not_made(const std::filesystem::path& path, int code);

/// Flushes the entries of a folder to the disk: a new file or folder is there after a power failure only then.
/// IoError with the system's reason; file systems that cannot do it are passed over.
void sync_folder(const std::filesystem::path& folder);

/// The process that a name of a temporary file says, or 0 where it is none of AtomicFile.
long temporary_file_owner(const std::string& name);

/// Writes one file from one piece; its checksum. IoError as for AtomicFile.
std::string write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);

/// Writes one file from several pieces, in order; its checksum. IoError as for AtomicFile.
std::string write_file_atomically(const std::filesystem::path& path,
                                  std::initializer_list<std::span<const std::byte>> pieces);

}  // namespace brenier
