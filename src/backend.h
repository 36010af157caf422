/*
 * Backends: one for each kind of device. A backend fills one table of functions and has one line in backend.c;
 * nothing else of the library knows it, and backends do not see each other.
 */
#ifndef FMLAI_BACKEND_H
#define FMLAI_BACKEND_H

#include "flash_mla.h"

#include <stdbool.h>

typedef struct fmlai_backend fmlai_backend;

/* The head of every backend's context. */
struct fmla_context {
  const fmlai_backend *backend;
  fmla_context_info info;
  bool debug; /* FMLA_DEBUG: report choices on stderr */
};

/* A kernel's choice for a call, in static storage. */
typedef struct fmlai_choice {
  const char *kernel;
  const char *reason;
} fmlai_choice;

/*
 * Parameters arrive checked (check.h): extents in range, strides resolved, pointers present. A backend adds the
 * rules of its own devices. Entries that a backend cannot have yet are added at the end.
 */
struct fmlai_backend {
  const char *name;

  int32_t (*device_count)(void);
  void (*device_info)(int32_t index, fmla_device_info *info);
  int32_t (*kernel_count)(void);
  void (*kernel_info)(int32_t index, fmla_kernel_info *info);

  /* `device` is this backend's device number. */
  fmla_status (*open)(const fmla_config *config, int32_t device, fmla_context **context);
  void (*close)(fmla_context *context);

  fmla_status (*choose)(const fmla_context *context, const fmla_decode_params *params, fmlai_choice *choice);
  fmla_status (*decode_workspace)(const fmla_context *context, const fmla_decode_params *params, size_t *bytes);
  fmla_status (*decode)(fmla_context *context, const fmla_decode_params *params, void *workspace,
                        size_t workspace_bytes, void *stream);
  fmla_status (*merge)(fmla_context *context, const fmla_merge_params *params, void *stream);

  fmla_status (*buffer_alloc)(fmla_context *context, size_t bytes, void **buffer);
  fmla_status (*buffer_free)(fmla_context *context, void *buffer);
  fmla_status (*buffer_upload)(fmla_context *context, void *buffer, const void *host, size_t bytes,
                               void *stream);
  fmla_status (*buffer_download)(fmla_context *context, void *host, const void *buffer, size_t bytes,
                                 void *stream);
  fmla_status (*stream_create)(fmla_context *context, void **stream);
  fmla_status (*stream_destroy)(fmla_context *context, void *stream);
  fmla_status (*stream_synchronize)(fmla_context *context, void *stream);

  /* Why there are no devices, in words that follow "but"; NULL if there are some. NULL: there always are. */
  const char *(*absence)(void);
};

extern const fmlai_backend fmlai_cpu_backend;
extern const fmlai_backend fmlai_cuda_backend;

/* All backends of this build, the fastest devices first. */
extern const fmlai_backend *const fmlai_backends[];
extern const int32_t fmlai_num_backends;

/* Finds the device that fmla_config.device names; NULL and "auto" are the first there is. */
fmla_status fmlai_find_device(const char *name, const fmlai_backend **backend, int32_t *device);

/* With FMLA_DEBUG, a line about a step's kernel. */
void fmlai_report_choice(const fmla_context *context, const fmla_decode_params *params,
                         const fmlai_choice *choice);

#endif
