/*
 * replay.c: runs a fuzz target over the files of directories, for builds without a fuzzer.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_data.h"

#include <dirent.h>

static int is_file_name(const struct dirent *entry) {
  return entry->d_name[0] != '.';
}

static void fail(const char *what, const char *path) {
  perror(path);
  fprintf(stderr, "replay: %s\n", what);
  exit(EXIT_FAILURE);
}

static void replay_file(const char *directory, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0)
    fail("cannot open", path);
  const long size = ftell(file);
  rewind(file);
  uint8_t *bytes = malloc((size_t)size + 1);
  if (size < 0 || bytes == NULL || fread(bytes, 1, (size_t)size, file) != (size_t)size)
    fail("cannot read", path);
  fclose(file);
  LLVMFuzzerTestOneInput(bytes, (size_t)size);
  free(bytes);
}

int main(int argc, char **argv) {
  int replayed = 0;
  LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
  for (int i = 1; i < argc; i++) {
    struct dirent **entries;
    const int count = scandir(argv[i], &entries, is_file_name, alphasort);
    if (count < 0)
      fail("cannot list", argv[i]);
    for (int k = 0; k < count; k++, replayed++) {
      replay_file(argv[i], entries[k]->d_name);
      free(entries[k]);
    }
    free(entries);
  }
  printf("%d inputs\n", replayed);
  return replayed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
