// SPDX-License-Identifier: MIT
// For LD_PRELOAD: the k-th call of one kind on files below a folder fails, or the k-th allocation.
//   BRENIER_FAULT=write:3:28        kind (write, fsync, rename, open, mkdir, close, read, link, alloc), k from 1, errno
//   BRENIER_FAULT_ROOT=FOLDER       as the program names it
//   BRENIER_FAULT_COUNT=FILE        gets the number of calls of that kind, at the end
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char kind[16];
static long wanted = 0, calls = 0;
static int code = EIO;
static const char* root = NULL;

__attribute__((constructor)) static void begin(void) {
  const char* fault = getenv("BRENIER_FAULT");
  root = getenv("BRENIER_FAULT_ROOT");
  if (!fault || !root || sscanf(fault, "%15[a-z]:%ld:%d", kind, &wanted, &code) != 3) kind[0] = 0;
}

__attribute__((destructor)) static void end(void) {
  const char* name = getenv("BRENIER_FAULT_COUNT");
  if (!name) return;
  kind[0] = 0;
  FILE* file = fopen(name, "w");
  if (!file) return;
  fprintf(file, "%ld\n", calls);
  fclose(file);
}

/// Whether this call is to fail; errno is set then.
static int fails(const char* name, int ours) {
  if (!ours || strcmp(name, kind) != 0 || __sync_add_and_fetch(&calls, 1) != wanted) return 0;
  errno = code;
  return 1;
}

static int below_root(const char* path) {
  return root && strncmp(path, root, strlen(root)) == 0;
}

static int descriptor_below_root(int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return below_root(path);
}

#define REAL(result, name, ...)                       \
  static result (*real)(__VA_ARGS__) = NULL;          \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int descriptor, const void* bytes, size_t count) {
  REAL(ssize_t, "write", int, const void*, size_t);
  return fails("write", descriptor_below_root(descriptor)) ? -1 : real(descriptor, bytes, count);
}
ssize_t read(int descriptor, void* bytes, size_t count) {
  REAL(ssize_t, "read", int, void*, size_t);
  return fails("read", descriptor_below_root(descriptor)) ? -1 : real(descriptor, bytes, count);
}
int fsync(int descriptor) {
  REAL(int, "fsync", int);
  return fails("fsync", descriptor_below_root(descriptor)) ? -1 : real(descriptor);
}
int close(int descriptor) {
  REAL(int, "close", int);
  const int fault = fails("close", descriptor_below_root(descriptor));
  const int result = real(descriptor);  // the descriptor is gone in any case
  if (!fault) return result;
  errno = code;
  return -1;
}
int rename(const char* from, const char* to) {
  REAL(int, "rename", const char*, const char*);
  return fails("rename", below_root(to)) ? -1 : real(from, to);
}
int link(const char* from, const char* to) {
  REAL(int, "link", const char*, const char*);
  return fails("link", below_root(to)) ? -1 : real(from, to);
}
int mkdir(const char* path, mode_t mode) {
  REAL(int, "mkdir", const char*, mode_t);
  return fails("mkdir", below_root(path)) ? -1 : real(path, mode);
}
int open(const char* path, int flags, ...) {
  REAL(int, "open", const char*, int, ...);
  va_list more;
  va_start(more, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  return fails("open", below_root(path)) ? -1 : real(path, flags, mode);
}
// Allocations from the constructors of global objects on; glibc has the real ones under these names too.
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  return fails("alloc", 1) ? NULL : __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  return fails("alloc", 1) ? NULL : __libc_calloc(count, size);
}
void* realloc(void* block, size_t size) {
  return fails("alloc", 1) ? NULL : __libc_realloc(block, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  return fails("alloc", 1) ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void** block, size_t alignment, size_t size) {
  if (fails("alloc", 1) || !(*block = __libc_memalign(alignment, size))) return ENOMEM;
  return 0;
}

int open64(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  return open(path, flags, mode);
}
