/* file.h: whole files: read at once, and replaced only by a complete successor. */
#ifndef CLI_FILE_H
#define CLI_FILE_H

#include <stddef.h>
#include <stdint.h>

typedef struct file_part {
  const void *data;
  size_t bytes;
} file_part;

/* Reads a file or a pipe to its end; *data is the caller's to free. Returns EXIT_OK, EXIT_INPUT if there is no
   such file, or EXIT_ENVIRONMENT. */
int file_read(const char *path, uint8_t **data, size_t *bytes);

/* Writes the parts one after the other under a temporary name in the target's directory, then renames: the
   target is as it was until all is on the disk. A target that is no regular file (a device, a pipe) is written
   to as it is. Returns EXIT_OK or EXIT_ENVIRONMENT. */
int file_write(const char *path, const file_part *parts, size_t num_parts);

#endif
