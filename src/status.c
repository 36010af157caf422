#include "status.h"

#include <stdarg.h>
#include <stdio.h>

/* Every status once: its name and what it means. */
#define STATUS_TABLE(X)                                                                                        \
  X(FMLA_OK, "success")                                                                                        \
  X(FMLA_ERROR_INVALID_ARGUMENT, "an argument breaks a rule")                                                  \
  X(FMLA_ERROR_UNSUPPORTED, "the request is valid, but this device or build cannot serve it")                  \
  X(FMLA_ERROR_OUT_OF_MEMORY, "memory could not be had")                                                       \
  X(FMLA_ERROR_NO_DEVICE, "the device is not there or cannot be used")                                         \
  X(FMLA_ERROR_DEVICE, "the device's driver failed a call")                                                    \
  X(FMLA_ERROR_DEVICE_LOST, "the device is in a lasting error state")                                          \
  X(FMLA_ERROR_INTERNAL, "a defect of the library")

static _Thread_local char last_error[512];

void fmlai_set_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
}

const char *fmla_last_error(void) {
  return last_error;
}

const char *fmla_status_name(fmla_status status) {
  switch (status) {
#define X(code, text)                                                                                          \
  case code:                                                                                                   \
    return #code;
    STATUS_TABLE(X)
#undef X
  }
  return "FMLA_ERROR_UNKNOWN";
}

const char *fmla_status_text(fmla_status status) {
  switch (status) {
#define X(code, text)                                                                                          \
  case code:                                                                                                   \
    return text;
    STATUS_TABLE(X)
#undef X
  }
  return "not a status of this library";
}
