// SPDX-License-Identifier: MIT
#include "engine/src/files/input_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/text_file.hpp"

namespace brenier {
std::string reason(int code) {
  return std::system_category().message(code);
}

InputFile::InputFile(const std::filesystem::path& path) : path_(path) {
  // Without O_NONBLOCK a pipe would be waited for.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int code = errno;
    fail(code == ENOENT || code == ENOTDIR ? "no such file" : "cannot be opened: " + reason(code));
  }
  struct stat status {};
  const int code = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (code == 0 && S_ISREG(status.st_mode)) {
    size_ = whole_ = static_cast<std::uint64_t>(status.st_size);
    return;
  }
  ::close(descriptor_);
  fail(code == 0 ? "not a regular file" : "cannot be opened: " + reason(code));
}

InputFile::InputFile(std::span<const std::byte> bytes, const std::string& name)
    : path_(name), memory_(bytes.data()), size_(bytes.size()), whole_(bytes.size()) {}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::narrow(std::uint64_t offset, std::uint64_t count, const std::string& what) {
  if (offset > whole_ || count > whole_ - offset)
    fail("truncated: " + what + " lies beyond its " + std::to_string(whole_) + " bytes");
  if (descriptor_ >= 0 && ::lseek(descriptor_, static_cast<off_t>(offset), SEEK_SET) < 0)
    fail("cannot be read (" + what + "): " + reason(errno));
  position_ = offset;
  size_ = offset + count;
}

void InputFile::replace(std::vector<std::byte> bytes) {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  own_ = std::move(bytes);
  memory_ = own_.data();
  size_ = whole_ = own_.size();
  position_ = 0;
}

void InputFile::read(std::span<std::byte> bytes, const std::string& what) {
  if (bytes.size() > remaining())
    fail("truncated: " + what + " needs " + std::to_string(bytes.size()) + " bytes, " +
         std::to_string(remaining()) + " are left of " + std::to_string(size_));
  if (descriptor_ < 0) {
    std::copy_n(memory_ + position_, bytes.size(), bytes.data());
    position_ += bytes.size();
    if (checksum_) checksum_->update(bytes);
    return;
  }
  // Linux moves at most 2^31 - 4096 bytes in one call.
  constexpr std::size_t largest = std::size_t{1} << 30;
  for (std::span<std::byte> rest = bytes; !rest.empty();) {
    const ssize_t count = ::read(descriptor_, rest.data(), std::min(rest.size(), largest));
    if (count < 0) {
      if (errno == EINTR) continue;
      fail("cannot be read (" + what + "): " + reason(errno));
    }
    if (count == 0) fail("became shorter while it was read (" + what + ")");
    rest = rest.subspan(static_cast<std::size_t>(count));
  }
  position_ += bytes.size();
  if (checksum_) checksum_->update(bytes);
}

void InputFile::fail(const std::string& message) const {
  throw IoError("'" + path_.string() + "': " + message);
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t most) {
  InputFile file(path);
  if (file.size() > most)
    file.fail("has " + std::to_string(file.size()) + " bytes; at most " + std::to_string(most) +
              " are allowed");
  std::string text(file.size(), '\0');
  file.read(std::as_writable_bytes(std::span(text)), "the text");
  return text;
}

}  // namespace brenier
