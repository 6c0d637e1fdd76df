// SPDX-License-Identifier: MIT
#include "brenier/atomic_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include "brenier/base/error.hpp"
#include "engine/src/files/input_file.hpp"

namespace brenier {

namespace fs = std::filesystem;

namespace {

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

constexpr std::string_view kPrefix = ".brenier-", kSuffix = ".tmp";

/// Of a folder's entries; the error code, 0 where all is well. A folder that may not be read is passed over.
int flush_folder(const fs::path& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return errno == EACCES ? 0 : errno;
  const int code = ::fsync(folder) == 0 ? 0 : errno;
  ::close(folder);
  return code == EINVAL || code == ENOTSUP || code == EROFS ? 0 : code;
}

}  // namespace

std::string why_not_made(const fs::path& path, int code) {
  const std::string what = reason(code);
  if (code == ENOSPC || code == EDQUOT) return what + "; free some space and try again";
  std::error_code none;
  if (code == EEXIST && fs::is_symlink(path, none))
    return what + ": it is a link to '" + fs::read_symlink(path, none).string() +
           "', which is not there; make that, remove the link, or choose another name";
  if (code != ENOENT && code != ENOTDIR && code != EACCES && code != EPERM && code != EROFS) return what;
  // The deepest folder on the way that is there, and can be looked into.
  fs::path above = folder_of(fs::absolute(path)), below;
  std::error_code ignored;
  while (!fs::exists(above, ignored) && above.has_relative_path()) {
    below = above;
    above = above.parent_path();
  }
  if (!fs::is_directory(above, ignored)) return what + ": '" + above.string() + "' is not a folder";
  // What is in a folder without the right to search it looks as if it were missing.
  const bool searched = ::access(above.c_str(), X_OK) == 0;
  if (!searched || (code != ENOENT && code != ENOTDIR && ::access(above.c_str(), W_OK) != 0)) {
    return what + ": the folder '" + above.string() + "' may not be " + (searched ? "written" : "entered") +
           " by the user " + std::to_string(::geteuid()) + "; choose another one";
  }
  if (!below.empty()) return what + ": there is no folder '" + below.string() + "'; create it first";
  return what;
}

void sync_folder(const fs::path& folder) {
  if (const int code = flush_folder(folder))
    throw WriteError("the folder '" + folder.string() + "' cannot be flushed to the disk: " + reason(code),
                     code);
}

long temporary_file_owner(const std::string& name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return 0;
  long process = 0;
  const auto result = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), process);
  return result.ec == std::errc() && *result.ptr == '-' && process > 0 ? process : 0;
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path), target_(path) {
  std::error_code ignored;
  if (path.filename().empty() || fs::is_directory(path, ignored))
    throw IoError("cannot write '" + path.string() + "': it names a folder; give the name of a file");
  // Also a link to a file that is not there yet.
  constexpr int most_links = 40;
  for (int link = 0; link < most_links && fs::is_symlink(target_, ignored); ++link) {
    const fs::path next = fs::read_symlink(target_, ignored);
    target_ = next.is_absolute() ? next : folder_of(target_) / next;
  }
  if (fs::exists(target_, ignored) && !fs::is_regular_file(target_, ignored)) {
    // Renaming over a device or a pipe would remove it.
    descriptor_ = ::open(target_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("open", errno);
    return;
  }
  // The process number and O_EXCL keep writers apart, in other processes and in other threads.
  constexpr int attempts = 10000;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const std::string name = std::string(kPrefix) + std::to_string(::getpid()) + "-" +
                             std::to_string(attempt) + std::string(kSuffix);
    fs::path candidate = folder_of(target_) / name;
    descriptor_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) {
      temporary_ = std::move(candidate);  // takes no memory, without which the file would stay
      return;
    }
    if (errno != EEXIST) break;
  }
  fail("create a temporary file beside it", errno);
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  if (descriptor_ < 0) throw IoError("cannot write '" + path_.string() + "': the file is already closed");
  checksum_.update(bytes);
  // Linux moves at most 2^31 - 4096 bytes in one call.
  constexpr std::size_t largest = std::size_t{1} << 30;
  while (!bytes.empty()) {
    const ssize_t written =
        ::write(descriptor_, bytes.data(), bytes.size() < largest ? bytes.size() : largest);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  if (descriptor_ < 0) throw IoError("cannot write '" + path_.string() + "': the file is already closed");
  // Pipes and some devices have nothing to flush and say EINVAL.
  if (::fsync(descriptor_) != 0 && !(temporary_.empty() && (errno == EINVAL || errno == ENOTSUP)))
    fail("flush", errno);
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0 && errno != EINTR) fail("close", errno);
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename the temporary file to it", errno);
  temporary_.clear();
  if (const int code = flush_folder(folder_of(target_))) fail("flush the folder of", code);
}

void AtomicFile::discard() noexcept {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

void AtomicFile::fail(const char* what, int code) {
  discard();
  throw WriteError("cannot write '" + path_.string() + "' (" + what + "): " + why_not_made(target_, code),
                   code);
}

std::string write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  return write_file_atomically(path, {bytes});
}

std::string write_file_atomically(const fs::path& path,
                                  std::initializer_list<std::span<const std::byte>> pieces) {
  AtomicFile file(path);
  for (const auto piece : pieces) file.write(piece);
  file.commit();
  return file.checksum();
}

}  // namespace brenier
