/* file_step.h: a decode step as a safetensors file holds it, and as fmla_decode takes it. */
#ifndef CLI_FILE_STEP_H
#define CLI_FILE_STEP_H

#include "flash_mla.h"

enum { FILE_STEP_MAX_TENSORS = 9 };

/* `params` points to host memory that the step owns; out and lse are NULL until file_step_allocate_results. */
typedef struct file_step {
  fmla_decode_params params;
  void *owned[FILE_STEP_MAX_TENSORS];
  int num_owned;
} file_step;

/* Reads the step that a safetensors file describes (docs/flashmla.1 has the format), from memory or from a
   path. `dtype` is what F32 tensors are rounded to, and `out_dtype` what out will be; 0 leaves either to the
   file. Returns EXIT_OK; or another exit code after fail(), with nothing to free. */
int file_step_parse(const uint8_t *data, size_t size, int32_t dtype, int32_t out_dtype, file_step *step);
int file_step_load(const char *path, int32_t dtype, int32_t out_dtype, file_step *step);
void file_step_free(file_step *step);

/* Gives params.out and params.lse their memory. Only for extents that fmla_decode_workspace has accepted. */
int file_step_allocate_results(file_step *step);

/* Writes `out` and `lse` to a safetensors file. */
int file_step_save_results(const char *path, const file_step *step);

#endif
