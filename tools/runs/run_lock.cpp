// SPDX-License-Identifier: MIT
#include "tools/runs/run_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

/// Who holds a lock, as its file says: "key value" lines.
struct Owner {
  std::string host;     // and what tells containers on it apart
  std::string space;    // of process numbers
  std::string boot;     // process numbers start anew with each
  std::string started;  // clock ticks since then: a number may belong to another process by now
  long process = 0;
};

// Streams throw where memory is out, instead of ending early: half of what a lock says of its owner would make him one of
// another start of this host, and so one that has ended.

std::string first_word(const char* file) {
  std::ifstream in(file);
  in.exceptions(std::ios::badbit);
  std::string word;
  in >> word;
  return word;
}

/// The fields of /proc/PID/stat from the state on; empty where there are none.
std::string status_fields(long process) {
  std::ifstream in("/proc/" + std::to_string(process) + "/stat");
  in.exceptions(std::ios::badbit);
  std::string line;
  try {
    std::getline(in, line);
  } catch (const std::ios::failure&) {
    return "";  // it ended while it was read
  }
  const std::size_t name_end = line.rfind(") ");  // the name may have spaces and parentheses
  return name_end == std::string::npos ? "" : line.substr(name_end + 2);
}

std::string start_of(long process) {
  std::istringstream fields(status_fields(process));
  fields.exceptions(std::ios::badbit);
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return fields ? field : "";
}

Owner this_process() {
  Owner self;
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  self.host = *name ? name : "unknown";
  char space[64] = "";
  self.space = ::readlink("/proc/self/ns/pid", space, sizeof space - 1) > 0 ? space : "";
  self.boot = first_word("/proc/sys/kernel/random/boot_id");
  self.process = ::getpid();
  self.started = start_of(self.process);
  return self;
}

std::string text_of(const Owner& owner) {
  return "host " + owner.host + "\nprocess " + std::to_string(owner.process) + "\nspace " + owner.space +
         "\nboot " + owner.boot + "\nstarted " + owner.started + "\n";
}

Owner parse_owner(const std::string& text) {
  Owner owner;
  std::istringstream in(text);
  in.exceptions(std::ios::badbit);
  for (std::string line; std::getline(in, line);) {
    const std::size_t space = line.find(' ');
    const std::string key = line.substr(0, space), value = space < line.size() ? line.substr(space + 1) : "";
    if (key == "host") owner.host = value;
    if (key == "process") owner.process = std::atol(value.c_str());
    if (key == "space") owner.space = value;
    if (key == "boot") owner.boot = value;
    if (key == "started") owner.started = value;
  }
  return owner;
}

bool is_here(const Owner& owner, const Owner& self) {
  return owner.process > 0 && owner.host == self.host &&
         (owner.space == self.space || owner.boot != self.boot);
}

/// Of an owner on this host.
bool has_ended(const Owner& owner, const Owner& self) {
  if (owner.boot != self.boot) return true;
  if (!is_alive(owner.process)) return true;
  const std::string start = start_of(owner.process);
  return !owner.started.empty() && !start.empty() && owner.started != start;
}

std::string reason(int code) {
  return std::system_category().message(code);
}

[[noreturn]] void fail(const fs::path& folder, const char* what, int code) {
  throw WriteError("'" + folder.string() + "' cannot be locked (" + what + "): " + reason(code), code);
}

/// A file that is open.
struct Descriptor {
  int number = -1;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

std::string content_of(int descriptor) {
  char text[4096];
  const ssize_t count = ::pread(descriptor, text, sizeof text, 0);
  return count > 0 ? std::string(text, static_cast<std::size_t>(count)) : "";
}

/// Makes a file that says who this process is; its inode, or 0 where there is one of that name.
ino_t write_owner(const fs::path& folder, const fs::path& claim, const Owner& self) {
  const Descriptor file{::open(claim.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
  if (file.number < 0 && errno == EEXIST) return 0;
  if (file.number < 0) fail(folder, "create a file in it", errno);
  const std::string text = text_of(self);
  struct stat status {};
  const ssize_t count = ::write(file.number, text.data(), text.size());
  if (count != static_cast<ssize_t>(text.size()) || ::fsync(file.number) != 0 ||
      ::fstat(file.number, &status) != 0) {
    const int code = count >= 0 && count != static_cast<ssize_t>(text.size()) ? ENOSPC : errno;
    ::unlink(claim.c_str());
    fail(folder, "write a file in it", code);
  }
  return status.st_ino;
}

/// Whether link() made `file` the same as `claim`; on a network file system its answer may be lost.
bool is_linked(const fs::path& claim) {
  struct stat status {};
  return ::stat(claim.c_str(), &status) == 0 && status.st_nlink == 2;
}

/// Removes the lock of a process that has ended; false: look again. One process at a time gets to that, and it
/// makes sure that the file it has judged is still the lock.
bool remove_stale(const fs::path& folder, const fs::path& file, const Owner& self) {
  const Descriptor lock{::open(file.c_str(), O_RDWR | O_CLOEXEC)};
  if (lock.number < 0) {
    if (errno == ENOENT) return true;
    fail(folder, "read the lock of another process", errno);
  }
  const Owner owner = parse_owner(content_of(lock.number));
  if (!is_here(owner, self)) {
    throw IoError("'" + folder.string() + "' is in use by process " + std::to_string(owner.process) +
                  " on the host '" + owner.host +
                  "'; wait for its end, or, where no such process runs any more, remove '" + file.string() +
                  "'");
  }
  if (!has_ended(owner, self)) {
    throw IoError("'" + folder.string() + "' is in use by process " + std::to_string(owner.process) +
                  " on this host (" + owner.host + "); wait for its end, or choose another folder");
  }
  if (::flock(lock.number, LOCK_EX | LOCK_NB) != 0) return false;
  struct stat judged {
  }, now{};
  if (::fstat(lock.number, &judged) != 0 || ::stat(file.c_str(), &now) != 0) return errno == ENOENT;
  if (judged.st_ino != now.st_ino || judged.st_dev != now.st_dev) return false;
  ::unlink(file.c_str());
  return true;
}

}  // namespace

bool is_alive(long process) {
  if (::kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH) return false;
  const std::string fields = status_fields(process);
  return fields.empty() || (fields[0] != 'Z' && fields[0] != 'X');
}

RunLock::RunLock(const fs::path& folder) : file_(folder / file_name()) {
  static std::atomic<int> number{0};  // threads of one process have claims of their own
  const Owner self = this_process();
  const fs::path claim =
      folder / (".brenier-" + std::to_string(self.process) + "-lock" + std::to_string(++number) + ".tmp");
  ::unlink(claim.c_str());  // of a process that had the same number
  inode_ = write_owner(folder, claim, self);
  try {
    constexpr int attempts = 500;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      const int code = ::link(claim.c_str(), file_.c_str()) == 0 ? 0 : errno;
      if (code == 0 || is_linked(claim)) {
        ::unlink(claim.c_str());
        return;
      }
      if (code == EPERM || code == ENOTSUP || code == ENOSYS) {
        // A file system without links.
        if (const ino_t made = write_owner(folder, file_, self)) {
          inode_ = made;
          ::unlink(claim.c_str());
          return;
        }
      } else if (code != EEXIST) {
        fail(folder, "make a link in it", code);
      }
      if (!remove_stale(folder, file_, self)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    fail(folder, "too many processes ask for it", EBUSY);
  } catch (...) {
    ::unlink(claim.c_str());
    throw;
  }
}

void RunLock::release() noexcept {
  struct stat status {};
  if (inode_ != 0 && ::stat(file_.c_str(), &status) == 0 && status.st_ino == inode_) ::unlink(file_.c_str());
  inode_ = 0;
}

}  // namespace brenier::app
