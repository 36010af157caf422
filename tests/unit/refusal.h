/*
 * refusal.h: tables of rules. A row makes one wrong change to a valid struct and says what the sentence of
 * the refusal must contain.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef UNIT_REFUSAL_H
#define UNIT_REFUSAL_H

#include "flash_mla.h"

#include <stddef.h>

typedef enum field_kind {
  FIELD_NONE,
  FIELD_INT32,
  FIELD_INT64,
  FIELD_SIZE,
  FIELD_FLOAT,
  FIELD_POINTER
} field_kind;

/* A new value for one field of a struct. Pointers are moved by `integer` bytes, or become NULL with 0. */
typedef struct change {
  field_kind kind;
  size_t offset;
  int64_t integer;
  float real;
} change;

typedef struct refusal {
  change changes[4];
  const char *words[3]; /* the argument and its value, what is allowed */
} refusal;

#define INT32(type, field, value)                                                                              \
  { FIELD_INT32, offsetof(type, field), (value), 0 }
#define INT64(type, field, value)                                                                              \
  { FIELD_INT64, offsetof(type, field), (value), 0 }
#define SIZE(type, field, value)                                                                               \
  { FIELD_SIZE, offsetof(type, field), (value), 0 }
#define FLOAT(type, field, value)                                                                              \
  { FIELD_FLOAT, offsetof(type, field), 0, (value) }
#define MOVED(type, field, bytes)                                                                              \
  { FIELD_POINTER, offsetof(type, field), (bytes), 0 }
#define UNSET(type, field)                                                                                     \
  { FIELD_POINTER, offsetof(type, field), 0, 0 }

void apply_changes(void *params, const refusal *row);

/* The call failed with `status`, and its sentence is whole, one line, and contains the words (NULL ends them,
   three at most). */
void assert_refused(fmla_status got, fmla_status status, const char *const *words);

#endif
