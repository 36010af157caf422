/*
 * fuzz_contexts.c: what fuzz targets of the public calls share.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_contexts.h"

fmla_context *fuzz_context(bool threads) {
  static fmla_context *contexts[2];
  if (contexts[threads] == NULL) {
    fmla_config config = FMLA_CONFIG_INIT;
    config.num_threads = threads ? 3 : 1;
    fuzz_require(fmla_open(&config, &contexts[threads]) == FMLA_OK, "no context");
  }
  return contexts[threads];
}

void fuzz_change_fields(fuzz_data *data, void *params, const fuzz_field *fields, size_t num_fields) {
  for (int changes = fuzz_byte(data) % 8; changes > 4; changes--) {
    const fuzz_field *field = &fields[fuzz_byte(data) % num_fields];
    const int64_t wide = fuzz_wild(data);
    const int32_t narrow = (int32_t)(uint32_t)(uint64_t)wide;
    if (field->bytes == sizeof narrow)
      memcpy((char *)params + field->offset, &narrow, sizeof narrow);
    else
      memcpy((char *)params + field->offset, &wide, sizeof wide);
  }
}

void fuzz_require_sentence(fmla_status status) {
  if (status == FMLA_OK)
    return;
  const size_t length = strlen(fmla_last_error());
  fuzz_require(length > 10 && length < 500, "a refusal without a sentence");
  fuzz_require(strncmp(fmla_status_name(status), "FMLA_ERROR_", 11) == 0 && status != FMLA_ERROR_INTERNAL,
               "an unknown status or an internal error");
}
