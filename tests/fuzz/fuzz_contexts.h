/*
 * fuzz_contexts.h: contexts that serve all inputs, and wild changes to the structs that calls take.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_CONTEXTS_H
#define FUZZ_CONTEXTS_H

#include "flash_mla.h"
#include "fuzz_data.h"

/* With one thread, and with three. */
fmla_context *fuzz_context(bool threads);

/* A field of a struct, by its place. */
typedef struct fuzz_field {
  size_t offset;
  size_t bytes; /* 4 or 8 */
} fuzz_field;

#define FUZZ_FIELD(type, name)                                                                                 \
  { offsetof(type, name), sizeof(((type *)0)->name) }

/* Gives up to three of the fields values from fuzz_wild; 0 .. 2 in most inputs. */
void fuzz_change_fields(fuzz_data *data, void *params, const fuzz_field *fields, size_t num_fields);

/* The sentence of a refusal is there and whole. */
void fuzz_require_sentence(fmla_status status);

#endif
