#include "file.h"

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int cannot(int code, const char *verb, const char *path) {
  return fail(code, "cannot %s '%s': %s", verb, path, strerror(errno));
}

/* Linux moves at most 2 GiB in one call; a smaller piece is as fast. */
static const size_t max_piece = (size_t)1 << 30;

/* ---- Reading ------------------------------------------------------------------------------------ */

static int read_to_end(int fd, const char *path, size_t expected, uint8_t **data, size_t *bytes) {
  size_t capacity = expected + 1; /* one more, so that the end is seen without growing */
  uint8_t *buffer = malloc(capacity);
  size_t size = 0;
  while (buffer != NULL) {
    const size_t room = capacity - size;
    const ssize_t got = read(fd, buffer + size, room < max_piece ? room : max_piece);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0) {
      free(buffer);
      return cannot(errno == EISDIR ? EXIT_INPUT : EXIT_ENVIRONMENT, "read", path);
    }
    if (got == 0) {
      *data = buffer;
      *bytes = size;
      return EXIT_OK;
    }
    size += (size_t)got;
    if (size == capacity) {
      uint8_t *larger = capacity < SIZE_MAX / 2 ? realloc(buffer, capacity *= 2) : NULL;
      if (larger == NULL)
        free(buffer);
      buffer = larger;
    }
  }
  return fail(EXIT_ENVIRONMENT, "memory ran out while reading '%s'", path);
}

int file_read(const char *path, uint8_t **data, size_t *bytes) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return cannot(EXIT_INPUT, "open", path);
  struct stat status;
  const bool sized = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  const int code = read_to_end(fd, path, sized ? (size_t)status.st_size : 65535, data, bytes);
  close(fd);
  return code;
}

/* ---- Writing ------------------------------------------------------------------------------------ */

static bool write_parts(int fd, const file_part *parts, size_t num_parts) {
  for (size_t i = 0; i < num_parts; i++) {
    const char *next = parts[i].data;
    for (size_t left = parts[i].bytes; left > 0;) {
      const ssize_t put = write(fd, next, left < max_piece ? left : max_piece);
      if (put < 0 && errno != EINTR)
        return false;
      if (put > 0) {
        next += put;
        left -= (size_t)put;
      }
    }
  }
  return true;
}

/* Creates a file of a name not yet taken in the directory of `target`, and gives that name. */
static int create_beside(const char *target, char *name, size_t name_bytes) {
  const char *slash = strrchr(target, '/');
  const int directory = slash != NULL ? (int)(slash - target) + 1 : 0;
  int fd = -1;
  for (int attempt = 0; attempt < 100; attempt++) {
    const int length =
        snprintf(name, name_bytes, "%.*s.flashmla-%ld-%d.tmp", directory, target, (long)getpid(), attempt);
    if (length < 0 || (size_t)length >= name_bytes) {
      errno = ENAMETOOLONG;
      return -1;
    }
    fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST)
      break;
  }
  return fd;
}

static bool replace(const char *target, const file_part *parts, size_t num_parts) {
  char name[PATH_MAX];
  const int fd = create_beside(target, name, sizeof name);
  if (fd < 0)
    return false;
  bool done = write_parts(fd, parts, num_parts) && fsync(fd) == 0;
  int error = errno;
  if (close(fd) != 0 && done) {
    done = false;
    error = errno;
  }
  if (done && rename(name, target) == 0)
    return true;
  if (done)
    error = errno;
  unlink(name);
  errno = error;
  return false;
}

static bool overwrite(const char *target, const file_part *parts, size_t num_parts) {
  const int fd = open(target, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  const bool written = write_parts(fd, parts, num_parts);
  const int error = errno;
  const bool closed = close(fd) == 0;
  if (!written)
    errno = error;
  return written && closed;
}

int file_write(const char *path, const file_part *parts, size_t num_parts) {
  struct stat status;
  const bool exists = stat(path, &status) == 0;
  bool done;
  if (exists && !S_ISREG(status.st_mode)) {
    done = overwrite(path, parts, num_parts);
  } else {
    char *real = exists ? realpath(path, NULL) : NULL; /* a symbolic link stays one */
    done = replace(real != NULL ? real : path, parts, num_parts);
    free(real); /* leaves errno alone */
  }
  return done ? EXIT_OK : cannot(EXIT_ENVIRONMENT, "write", path);
}
