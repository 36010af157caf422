#include "cuda/driver.h"

#include "cuda/image.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
  const char *symbol;
  size_t offset; /* in the table */
} entry;

#define X(name, symbol, parameters) {symbol, offsetof(fmlai_cuda_driver, name)},
static const entry required[] = {FMLAI_CUDA_REQUIRED(X)};
static const entry optional[] = {FMLAI_CUDA_OPTIONAL(X) FMLAI_CUDA_OF_PROBE(X)};
#undef X

/* Written once, under `once`. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static fmlai_cuda_driver table;
static bool usable;
static char needed[64];
static char absence_text[384];

static bool absent(const char *format, ...) __attribute__((format(printf, 1, 2)));
static bool absent(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(absence_text, sizeof absence_text, format, arguments);
  va_end(arguments);
  return false;
}

/* Machine code runs on every driver of its CUDA's major version; these are the first of each. */
static void describe_needed(void) {
  const int major = fmlai_cuda_images.toolkit / 1000;
  const char *first = major == 12 ? " (R525 or newer)" : major == 13 ? " (R580 or newer)" : "";
  snprintf(needed, sizeof needed, "an NVIDIA driver for CUDA %d%s", major, first);
}

static bool find(void *library, const entry *e) {
  void *function = dlsym(library, e->symbol);
  memcpy((char *)&table + e->offset, &function, sizeof function);
  return function != NULL;
}

static bool load(void) {
  const int toolkit = fmlai_cuda_images.toolkit;
  if (fmlai_cuda_images.num_images == 0)
    return absent("this build of the library has no code for GPUs: it was made without nvcc");
  const char *path = secure_getenv("FMLA_CUDA_DRIVER");
  void *library = dlopen(path != NULL && *path != '\0' ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL)
    return absent("the driver's library cannot be loaded (%.200s); needed is %s", dlerror(), needed);

  /* The version, entry 0, comes first: what else an old driver lacks it lacks because it is old. */
  if (!find(library, &required[0]) || table.cuDriverGetVersion(&table.version) != CUDA_SUCCESS)
    return absent("the driver's library does not tell its version; needed is %s", needed);
  if (table.version / 1000 < toolkit / 1000)
    return absent(
        "its driver is for CUDA %d.%d; needed is %s, because the library's GPU code was built by nvcc %d.%d",
        table.version / 1000, table.version % 1000 / 10, needed, toolkit / 1000, toolkit % 1000 / 10);
  for (size_t i = 0; i < sizeof required / sizeof *required; i++)
    if (!find(library, &required[i]))
      return absent("its driver lacks the function %s; needed is %s", required[i].symbol, needed);
  for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
    find(library, &optional[i]);

  const CUresult result = table.cuInit(0);
  if (result != CUDA_SUCCESS)
    fmlai_cuda_describe(&table, "cuInit", result, absence_text, sizeof absence_text);
  return result == CUDA_SUCCESS;
}

static void load_once(void) {
  describe_needed();
  usable = load();
}

const fmlai_cuda_driver *fmlai_cuda_driver_get(const char **absence) {
  pthread_once(&once, load_once);
  *absence = usable ? NULL : absence_text;
  return usable ? &table : NULL;
}

const char *fmlai_cuda_driver_needed(void) {
  pthread_once(&once, load_once);
  return needed;
}

void fmlai_cuda_describe(const fmlai_cuda_driver *driver, const char *call, CUresult result, char *text,
                         size_t bytes) {
  char number[32];
  const char *name = NULL, *words = NULL;
  snprintf(number, sizeof number, "error %d", result);
  if (driver->cuGetErrorName(result, &name) != CUDA_SUCCESS || name == NULL)
    name = number;
  if (driver->cuGetErrorString(result, &words) != CUDA_SUCCESS || words == NULL)
    words = "the driver has no words for it";
  snprintf(text, bytes, "%s failed: %s (%s)", call, name, words);
}
