/*
 * refusal.c: applies a row's changes and judges sentences.
 *
 * SPDX-License-Identifier: MIT
 */
#include "refusal.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void set_field(void *at, const change *c) {
  const int32_t word = (int32_t)c->integer;
  const size_t size = (size_t)c->integer;
  char *pointer;
  switch (c->kind) {
  case FIELD_INT32:
    memcpy(at, &word, sizeof word);
    break;
  case FIELD_INT64:
    memcpy(at, &c->integer, sizeof c->integer);
    break;
  case FIELD_SIZE:
    memcpy(at, &size, sizeof size);
    break;
  case FIELD_FLOAT:
    memcpy(at, &c->real, sizeof c->real);
    break;
  case FIELD_POINTER:
    memcpy(&pointer, at, sizeof pointer);
    pointer = c->integer != 0 ? pointer + c->integer : NULL;
    memcpy(at, &pointer, sizeof pointer);
    break;
  case FIELD_NONE:
    break;
  }
}

void apply_changes(void *params, const refusal *row) {
  for (size_t i = 0; i < sizeof row->changes / sizeof *row->changes; i++)
    set_field((char *)params + row->changes[i].offset, &row->changes[i]);
}

void assert_refused(fmla_status got, fmla_status status, const char *const *words) {
  const char *sentence = fmla_last_error();
  if (got != status)
    fail_msg("the call that should say \"%s\" gave %s, not %s", words[0], fmla_status_name(got),
             fmla_status_name(status));
  for (int i = 0; i < 3 && words[i] != NULL; i++)
    if (strstr(sentence, words[i]) == NULL)
      fail_msg("\"%s\" lacks \"%s\"", sentence, words[i]);
  if (strlen(sentence) > 500 || strchr(sentence, '\n') != NULL)
    fail_msg("not one whole sentence: \"%s\"", sentence);
}
