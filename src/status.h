/* Status codes: their texts, and the sentence behind fmla_last_error. */
#ifndef FMLAI_STATUS_H
#define FMLAI_STATUS_H

#include "flash_mla.h"

/* Keeps the sentence for fmla_last_error of this thread. */
void fmlai_set_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Keeps the sentence; its value is `status`. */
#define FMLAI_FAIL(status, ...) (fmlai_set_error(__VA_ARGS__), (status))

/* Passes a failed call's status on. */
#define FMLAI_TRY(call)                                                                                        \
  do {                                                                                                         \
    const fmla_status fmlai_try_status = (call);                                                               \
    if (fmlai_try_status != FMLA_OK)                                                                           \
      return fmlai_try_status;                                                                                 \
  } while (0)

#endif
