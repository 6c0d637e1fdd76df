// SPDX-License-Identifier: MIT
// The calls of the system that the library reads and writes files with, for the files below scratch() in memory: the linker
// gives `open` to __wrap_open, and so on (--wrap). A call costs tens of nanoseconds then, not microseconds, and the library
// is the one that users have. What the system alone knows (folders, links) it is asked for; other files are its own.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/fuzz.hpp"

extern "C" {
int __real_open(const char* name, int flags, mode_t mode);
int __real_close(int descriptor);
int __real_fstat(int descriptor, struct stat* status);
int __real_fsync(int descriptor);
int __real_rename(const char* from, const char* to);
int __real_unlink(const char* name);
off_t __real_lseek(int descriptor, off_t offset, int whence);
ssize_t __real_read(int descriptor, void* bytes, size_t count);
ssize_t __real_write(int descriptor, const void* bytes, size_t count);
}

namespace {

constexpr int kFirst = 1 << 20;  // descriptors from here on are ours

struct OpenFile {
  std::shared_ptr<std::string> bytes;  // none: a folder
  std::size_t position = 0;
  bool used = false;
};

std::map<std::string, std::shared_ptr<std::string>, std::less<>>& files() {
  static std::map<std::string, std::shared_ptr<std::string>, std::less<>> table;
  return table;
}

std::vector<OpenFile>& open_files() {
  static std::vector<OpenFile> table(8);
  return table;
}

bool in_memory(std::string_view name) {
  return name.starts_with(brenier::fuzz::scratch_folder());
}

OpenFile* ours(int descriptor) {
  return descriptor < kFirst ? nullptr : &open_files().at(static_cast<std::size_t>(descriptor - kFirst));
}

int failed(int code) {
  errno = code;
  return -1;
}

int begin(std::shared_ptr<std::string> bytes) {
  std::vector<OpenFile>& table = open_files();
  const auto free = std::find_if(table.begin(), table.end(), [](const OpenFile& file) { return !file.used; });
  if (free == table.end())
    return failed(EMFILE);  // a leak of the library, which then ends the process by an error
  *free = {std::move(bytes), 0, true};
  return kFirst + static_cast<int>(free - table.begin());
}

}  // namespace

namespace brenier::fuzz {

const std::filesystem::path& put(const std::filesystem::path& file, std::string_view bytes) {
  std::shared_ptr<std::string>& content = files()[file.native()];
  // A copy of the right size: what lies behind the input's last byte is not to be read.
  content = std::make_shared<std::string>(bytes);
  return file;
}

}  // namespace brenier::fuzz

extern "C" {

int __wrap_open(const char* name, int flags, ...) {
  std::va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  if (!in_memory(name)) return __real_open(name, flags, mode);
  if ((flags & O_DIRECTORY) != 0) return begin(nullptr);
  const auto found = files().find(std::string_view(name));
  if (found != files().end())
    return (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL) ? failed(EEXIST) : begin(found->second);
  if ((flags & O_CREAT) == 0) return __real_open(name, flags, mode);
  return begin(files()[name] = std::make_shared<std::string>());
}

int __wrap_close(int descriptor) {
  OpenFile* file = ours(descriptor);
  if (!file) return __real_close(descriptor);
  if (!file->used) return failed(EBADF);
  *file = {};
  return 0;
}

int __wrap_fstat(int descriptor, struct stat* status) {
  const OpenFile* file = ours(descriptor);
  if (!file) return __real_fstat(descriptor, status);
  *status = {};
  status->st_mode = file->bytes ? S_IFREG | 0600 : S_IFDIR | 0700;
  status->st_size = file->bytes ? static_cast<off_t>(file->bytes->size()) : 0;
  return 0;
}

int __wrap_fsync(int descriptor) {
  return ours(descriptor) ? 0 : __real_fsync(descriptor);
}

int __wrap_rename(const char* from, const char* to) {
  const auto found = files().find(std::string_view(from));
  if (found == files().end()) return __real_rename(from, to);
  files()[to] = std::move(found->second);
  files().erase(files().find(std::string_view(from)));
  return 0;
}

int __wrap_unlink(const char* name) {
  const auto found = files().find(std::string_view(name));
  if (found == files().end()) return __real_unlink(name);
  files().erase(found);
  return 0;
}

off_t __wrap_lseek(int descriptor, off_t offset, int whence) {
  OpenFile* file = ours(descriptor);
  if (!file) return __real_lseek(descriptor, offset, whence);
  if (whence != SEEK_SET || offset < 0) return failed(EINVAL);
  file->position = static_cast<std::size_t>(offset);
  return offset;
}

ssize_t __wrap_read(int descriptor, void* bytes, size_t count) {
  OpenFile* file = ours(descriptor);
  if (!file) return __real_read(descriptor, bytes, count);
  if (!file->bytes) return failed(EISDIR);
  const std::size_t size = file->bytes->size();
  const std::size_t moved = std::min(count, size - std::min(size, file->position));
  std::memcpy(bytes, file->bytes->data() + std::min(size, file->position), moved);
  file->position += moved;
  return static_cast<ssize_t>(moved);
}

ssize_t __wrap_write(int descriptor, const void* bytes, size_t count) {
  OpenFile* file = ours(descriptor);
  if (!file) return __real_write(descriptor, bytes, count);
  if (!file->bytes) return failed(EBADF);
  file->bytes->resize(std::max(file->bytes->size(), file->position + count));
  std::memcpy(file->bytes->data() + file->position, bytes, count);
  file->position += count;
  return static_cast<ssize_t>(count);
}

}  // extern "C"
