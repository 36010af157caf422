/*
 * Decodes the snapshots of a DeepSeek-V3 layer (tests/snapshots) and compares with what the layer itself,
 * un-absorbed and in FP32, gave at those positions: the witness. The way leads through the value up-projection,
 * as in the layer.
 *
 * usage: test_snapshots FILE.safetensors...
 */
#include "common.h"
#include "file.h"
#include "file_step.h"
#include "flash_mla.h"
#include "safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/*
 * Relative L2 error of a query row, over all heads. The snapshots' q and cache are rounded to BF16 and the
 * witness's are not, which alone costs up to 0.0062; make_snapshots.py --verify has the figures.
 */
#define BOUND 0.0125

enum { MAX_ROWS = 64 };

typedef struct snapshot {
  file_step step;
  uint8_t *bytes;
  safetensors file;
  const uint16_t *w_uv; /* BF16 [heads, head_dim_v, v_dim] */
  const float *witness; /* [b, s_q, heads, v_dim] */
  int64_t v_dim;
  int64_t num_rows; /* b * s_q */
} snapshot;

static void open_snapshot(snapshot *s, const char *path) {
  memset(s, 0, sizeof *s);
  size_t size = 0;
  assert_int_equal(file_step_load(path, 0, FMLA_DTYPE_FP32, &s->step), EXIT_OK);
  assert_int_equal(file_step_allocate_results(&s->step), EXIT_OK);
  assert_int_equal(file_read(path, &s->bytes, &size), EXIT_OK);
  assert_int_equal(safetensors_parse(s->bytes, size, &s->file), EXIT_OK);
  const st_tensor *w_uv = safetensors_find(&s->file, "w_uv");
  const st_tensor *witness = safetensors_find(&s->file, "witness");
  assert_non_null(w_uv);
  assert_non_null(witness);
  s->w_uv = w_uv->data;
  s->witness = witness->data;
  s->v_dim = w_uv->shape[2];
  s->num_rows = witness->shape[0] * witness->shape[1];
  assert_in_range(s->num_rows, 1, MAX_ROWS);
  assert_int_equal((uintptr_t)s->witness % sizeof(float), 0);
}

static void close_snapshot(snapshot *s) {
  safetensors_free(&s->file);
  free(s->bytes);
  file_step_free(&s->step);
}

static void decode(const fmla_decode_params *params, const char *kernel) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cpu";
  config.kernel = kernel;
  fmla_context *context = NULL;
  size_t bytes = 0;
  assert_int_equal(fmla_open(&config, &context), FMLA_OK);
  assert_int_equal(fmla_decode_workspace(context, params, &bytes), FMLA_OK);
  void *workspace = malloc(bytes);
  assert_non_null(workspace);
  const fmla_status status = fmla_decode(context, params, workspace, bytes, NULL);
  if (status != FMLA_OK)
    fail_msg("%s", fmla_last_error());
  free(workspace);
  fmla_close(context);
}

static double bf16(uint16_t code) {
  const uint32_t bits = (uint32_t)code << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* The smallest and the largest relative error of a query row. */
static void errors(const snapshot *s, double *least, double *most) {
  const fmla_decode_params *p = &s->step.params;
  const int64_t heads = p->num_q_heads, dim = p->head_dim_v;
  *least = INFINITY;
  *most = 0;
  for (int64_t row = 0; row < s->num_rows; row++) {
    double wrong = 0, whole = 0;
    for (int64_t head = 0; head < heads; head++) {
      const float *latent = (const float *)p->out + (row * heads + head) * dim;
      for (int64_t v = 0; v < s->v_dim; v++) {
        double up = 0;
        for (int64_t d = 0; d < dim; d++)
          up += (double)latent[d] * bf16(s->w_uv[(head * dim + d) * s->v_dim + v]);
        const double want = (double)s->witness[(row * heads + head) * s->v_dim + v];
        wrong += (up - want) * (up - want);
        whole += want * want;
      }
    }
    const double error = sqrt(wrong / whole);
    assert_true(error >= 0); /* no NaN */
    *least = fmin(*least, error);
    *most = fmax(*most, error);
  }
}

/* Zeroes what the rotary position embedding gave to q. */
static void forget_rope(fmla_decode_params *p, int64_t num_rows) {
  if (p->q_rope != NULL) {
    memset((void *)p->q_rope, 0, (size_t)(num_rows * p->num_q_heads * p->head_dim_rope) * sizeof(uint16_t));
    return;
  }
  uint16_t *q = (uint16_t *)p->q;
  for (int64_t i = 0; i < num_rows * p->num_q_heads; i++)
    memset(q + i * p->head_dim_k + p->head_dim_v, 0, (size_t)(p->head_dim_k - p->head_dim_v) * sizeof *q);
}

/* Every kernel of this machine agrees with the layer. */
static void test_agrees(void **state) {
  snapshot s;
  for (int32_t i = 0; i < fmla_kernel_count(); i++) {
    fmla_kernel_info kernel = {.struct_size = sizeof kernel};
    assert_int_equal(fmla_get_kernel_info(i, &kernel), FMLA_OK);
    if (!kernel.available || strcmp(kernel.backend, "cpu") != 0)
      continue;
    double least, most;
    open_snapshot(&s, *state);
    decode(&s.step.params, kernel.name);
    errors(&s, &least, &most);
    close_snapshot(&s);
    print_message("%s: %s is off by %.5f to %.5f\n", (const char *)*state, kernel.name, least, most);
    assert_true(most <= BOUND);
  }
}

/* The comparison sees a scale that is 5 % off, on every row. */
static void test_sees_wrong_scale(void **state) {
  snapshot s;
  double least, most;
  open_snapshot(&s, *state);
  s.step.params.softmax_scale *= 1.05F;
  decode(&s.step.params, NULL);
  errors(&s, &least, &most);
  close_snapshot(&s);
  assert_true(least > BOUND);
}

/* The comparison sees that the RoPE part is missing, on every row. */
static void test_sees_missing_rope(void **state) {
  snapshot s;
  double least, most;
  open_snapshot(&s, *state);
  forget_rope(&s.step.params, s.num_rows);
  decode(&s.step.params, NULL);
  errors(&s, &least, &most);
  close_snapshot(&s);
  assert_true(least > BOUND);
}

int main(int argc, char **argv) {
  int failed = argc < 2;
  for (int i = 1; i < argc; i++) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_agrees, argv[i]),
        cmocka_unit_test_prestate(test_sees_wrong_scale, argv[i]),
        cmocka_unit_test_prestate(test_sees_missing_rope, argv[i]),
    };
    failed += cmocka_run_group_tests_name(argv[i], tests, NULL, NULL);
  }
  return failed != 0;
}
