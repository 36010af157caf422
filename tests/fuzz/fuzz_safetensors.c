/*
 * fuzz_safetensors.c: files of any bytes. What the reader accepts is complete and within the file; what passes
 * for a decode step is one that the library serves or refuses in words.
 *
 * SPDX-License-Identifier: MIT
 */
#include "common.h"
#include "file_step.h"
#include "fuzz_contexts.h"
#include "safetensors.h"

enum { MAX_WORKSPACE_BYTES = 1 << 25, MAX_WORK = 1 << 21 };

static void check_file(const safetensors *file, const uint8_t *data, size_t size) {
  const uint8_t *end = NULL;
  for (size_t i = 0; i < file->num_tensors; i++) {
    const st_tensor *t = &file->tensors[i];
    const uint8_t *begin = t->data;
    fuzz_require(begin >= data + 8 && begin <= data + size && t->bytes <= (size_t)(data + size - begin),
                 "a tensor outside the file");
    fuzz_require(end == NULL || begin == end, "a gap or an overlap");
    end = begin + t->bytes;
    fuzz_require(strlen(st_dtype_name(t->dtype)) > 0, "a type without a name");
    for (size_t d = 0; d < t->rank; d++)
      fuzz_require(t->shape[d] >= 0, "a negative extent");
    fuzz_require(safetensors_find(file, t->name) == t, "a tensor that cannot be found");
  }
  fuzz_require(end == NULL || end == data + size, "bytes behind the last tensor");
  fuzz_require(safetensors_find(file, "no such tensor") == NULL || file->num_tensors > 0,
               "a tensor from nowhere");
  const char *scale = safetensors_metadata(file, "softmax_scale");
  fuzz_require(scale == NULL || strlen(scale) < size, "metadata from nowhere");
}

/* Whether the step is small enough to decode here. */
static bool is_small(const fmla_decode_params *p) {
  int64_t keys = 0;
  for (int32_t i = 0; i < p->batch_size; i++)
    keys += p->cache_seqlens[i] > 0 ? p->cache_seqlens[i] : 0;
  const int64_t rows = p->cu_seqlens_q != NULL ? p->total_q : (int64_t)p->batch_size * p->max_seqlen_q;
  int64_t work;
  return !__builtin_mul_overflow(keys, rows * p->num_q_heads, &work) &&
         !__builtin_mul_overflow(work, p->head_dim_k, &work) && work <= MAX_WORK;
}

static void try_step(file_step *step) {
  size_t bytes = 0;
  const fmla_status status = fmla_decode_workspace(fuzz_context(false), &step->params, &bytes);
  fuzz_require_sentence(status);
  if (status != FMLA_OK || bytes > MAX_WORKSPACE_BYTES || !is_small(&step->params) ||
      file_step_allocate_results(step) != EXIT_OK)
    return;
  void *workspace = malloc(bytes);
  fuzz_require(workspace != NULL, "no memory");
  fuzz_require_sentence(fmla_decode(fuzz_context(false), &step->params, workspace, bytes, NULL));
  free(workspace);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  uint8_t *data = malloc(size + (size == 0)); /* of exactly the file's size */
  fuzz_require(data != NULL, "no memory");
  if (size > 0)
    memcpy(data, bytes, size);
  safetensors file;
  const int code = safetensors_parse(data, size, &file);
  fuzz_require(code == EXIT_OK || (code == EXIT_INPUT && strlen(failure_sentence()) > 10), "an odd refusal");
  if (code == EXIT_OK) {
    check_file(&file, data, size);
    safetensors_free(&file);
  }
  file_step step;
  const int step_code = file_step_parse(data, size, 0, 0, &step);
  fuzz_require(step_code == EXIT_OK || step_code == EXIT_INPUT, "an odd refusal of a step");
  fuzz_require(code == EXIT_OK || step_code != EXIT_OK, "a step from a malformed file");
  if (step_code == EXIT_OK) {
    try_step(&step);
    file_step_free(&step);
  }
  free(data);
  return 0;
}
