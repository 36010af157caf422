/* The reader of safetensors files against tables of good and malformed ones, the writer, and the rounding of
 * F32. */
#include "common.h"
#include "convert.h"
#include "file.h"
#include "safetensors.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* ---- Files in memory ---------------------------------------------------------------------------- */

typedef struct image {
  uint8_t *bytes; /* of exactly this size, so that a sanitizer sees a read beyond */
  size_t size;
} image;

static image make_image(uint64_t header_length, const char *header, size_t data_bytes) {
  image i = {.size = 8 + strlen(header) + data_bytes};
  i.bytes = malloc(i.size);
  assert_non_null(i.bytes);
  for (int b = 0; b < 8; b++)
    i.bytes[b] = (uint8_t)(header_length >> 8 * b);
  memcpy(i.bytes + 8, header, strlen(header));
  for (size_t b = 0; b < data_bytes; b++)
    i.bytes[8 + strlen(header) + b] = (uint8_t)b;
  return i;
}

static int parse(const char *header, size_t data_bytes, safetensors *file) {
  const image i = make_image(strlen(header), header, data_bytes);
  const int code = safetensors_parse(i.bytes, i.size, file);
  free(i.bytes);
  return code;
}

/* ---- Files that are right ----------------------------------------------------------------------- */

static void reads_tensors_and_metadata(void **state) {
  (void)state;
  /* An odd header, so that the data is not aligned; the tensors in another order than their data. */
  const char *header = "{\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[4,12]},"
                       "\"__metadata__\":{\"causal\":\"1\",\"\":\"empty\"},"
                       "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4],\"more\":null}}  \n";
  const image i = make_image(strlen(header), header, 12);
  safetensors file;
  assert_int_equal(safetensors_parse(i.bytes, i.size, &file), EXIT_OK);
  assert_int_equal(file.num_tensors, 2);
  const st_tensor *a = safetensors_find(&file, "a"), *b = safetensors_find(&file, "b");
  assert_ptr_equal(a, &file.tensors[0]);
  assert_int_equal(a->dtype, ST_BF16);
  assert_int_equal(a->rank, 1);
  assert_int_equal(a->shape[0], 2);
  assert_int_equal(a->bytes, 4);
  assert_ptr_equal(a->data, i.bytes + i.size - 12);
  assert_int_equal(b->dtype, ST_F32);
  assert_int_equal(b->rank, 2);
  assert_int_equal(b->shape[1], 2);
  assert_ptr_equal(b->data, i.bytes + i.size - 8);
  assert_null(safetensors_find(&file, "c"));
  assert_null(safetensors_find(&file, "__metadata__"));
  assert_string_equal(safetensors_metadata(&file, "causal"), "1");
  assert_string_equal(safetensors_metadata(&file, ""), "empty");
  assert_null(safetensors_metadata(&file, "scale"));
  safetensors_free(&file);
  free(i.bytes);
}

static void accepts_what_is_unusual_but_right(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data_bytes, num_tensors;
  } cases[] = {
      {"{}", 0, 0},
      {"{\"__metadata__\":{}}", 0, 0},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, 1},
      {"{\"a\":{\"dtype\":\"F64\",\"shape\":[3,0,9223372036854775807],\"data_offsets\":[0,0]}}", 0, 1},
      {"{\"b\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"a\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]},"
       "\"c\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
       2, 3},
      {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, 1},
      {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]}}", 3, 1},
      {"{\"\\u00e9\\n\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, 1},
  };
  for (size_t i = 0; i < LENGTH(cases); i++) {
    safetensors file;
    if (parse(cases[i].header, cases[i].data_bytes, &file) != EXIT_OK)
      fail_msg("%s: %s", cases[i].header, failure_sentence());
    assert_int_equal(file.num_tensors, cases[i].num_tensors);
    safetensors_free(&file);
  }
}

/* ---- Malformed files ---------------------------------------------------------------------------- */

#define ONE(fields) "{\"a\":{" fields "}}"
#define TWO(first, second)                                                                                     \
  "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" first "},"                                        \
  "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" second "}}"

static void refuses_malformed_headers(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data_bytes;
    const char *sentence; /* a part of it */
  } cases[] = {
      {"", 0, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"[]", 0, "does not begin with '{'"},
      {"{", 0, "not valid JSON"},
      {"{}x", 0, "not valid JSON"},
      {"{} {}", 0, "not valid JSON"},
      {"{\"a\":1,}", 0, "not valid JSON"},
      {"{'a':1}", 0, "not valid JSON"},
      {"{\"a\\u0000\":1}", 0, "not valid JSON"},
      {"{\"\xff\":1}", 0, "not valid JSON"},
      {"{\"a\":1,\"a\":2}", 0, "not valid JSON: duplicate object key"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate object key"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0, "duplicate object key"},
      {ONE("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1,
       "duplicate object key"},
      {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
      {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ has a 'k' that is not a string"},
      {"{\"a\":[]}", 0, "tensor 'a' is not described by an object"},
      {"{\"a\\n\":[]}", 0, "tensor 'a?' is not described by an object"},
      {ONE(""), 0, "tensor 'a' has no string \"dtype\""},
      {ONE("\"dtype\":3"), 0, "no string \"dtype\""},
      {ONE("\"dtype\":\"F33\""), 0, "unknown dtype 'F33'"},
      {ONE("\"dtype\":\"f32\""), 0, "unknown dtype 'f32'"},
      {ONE("\"dtype\":\"F32\""), 0, "no array \"shape\""},
      {ONE("\"dtype\":\"F32\",\"shape\":{}"), 0, "no array \"shape\""},
      {ONE("\"dtype\":\"F32\",\"shape\":[-1]"), 0, "not made of integers of 0 or more"},
      {ONE("\"dtype\":\"F32\",\"shape\":[1.0]"), 0, "not made of integers"},
      {ONE("\"dtype\":\"F32\",\"shape\":[\"1\"]"), 0, "not made of integers"},
      {ONE("\"dtype\":\"F32\",\"shape\":[true]"), 0, "not made of integers"},
      {ONE("\"dtype\":\"F32\",\"shape\":[[1]]"), 0, "not made of integers"},
      {ONE("\"dtype\":\"F32\",\"shape\":[9223372036854775808]"), 0, "not valid JSON: too big integer"},
      {ONE("\"dtype\":\"F32\",\"shape\":[1e400]"), 0, "not valid JSON: real number overflow"},
      {ONE("\"dtype\":\"U8\",\"shape\":[9223372036854775807]"), 0, "more elements than 64 bits"},
      {ONE("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296]"), 0, "more elements than 64 bits"},
      {ONE("\"dtype\":\"U8\",\"shape\":[4611686018427387904,4,16]"), 0, "more elements than 64 bits"},
      {ONE("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, "does not end at a whole byte"},
      {ONE("\"dtype\":\"U8\",\"shape\":[1]"), 1, "no \"data_offsets\" of two integers"},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, "no \"data_offsets\" of two integers"},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]"), 1, "no \"data_offsets\""},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0.0,1]"), 1, "no \"data_offsets\""},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}"), 1, "no \"data_offsets\""},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1, "data_offsets [-1, 0]"},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]"), 1, "data_offsets [1, 0]"},
      {ONE("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]"), 1, "but the file has 1 bytes of data"},
      {ONE("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]"), 2,
       "has 2 bytes of data"},
      {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2]"), 2, "but its dtype and shape make 4"},
      {ONE("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]"), 0, "but its dtype and shape make 4"},
      {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 2,
       "has 2 bytes of data, but its tensors only 1"},
      {"{}", 1, "has 1 bytes of data, but its tensors only 0"},
      {TWO("[0,2]", "[3,5]"), 5, "tensor 'b' has a gap of 1 bytes before it"},
      {TWO("[1,3]", "[3,5]"), 5, "tensor 'a' has a gap of 1 bytes before it"},
      {TWO("[0,2]", "[1,3]"), 3, "tensor 'b' overlaps another tensor"},
      {TWO("[0,2]", "[0,2]"), 2, "overlaps another tensor"},
  };
  for (size_t i = 0; i < LENGTH(cases); i++) {
    safetensors file;
    const int code = parse(cases[i].header, cases[i].data_bytes, &file);
    if (code != EXIT_INPUT || strstr(failure_sentence(), cases[i].sentence) == NULL)
      fail_msg("%s gave %d: %s", cases[i].header, code, failure_sentence());
    assert_null(file.tensors);
  }
}

static void refuses_wrong_lengths(void **state) {
  (void)state;
  static const struct {
    uint64_t header_length;
    const char *sentence;
  } cases[] = {
      {0, "does not begin with '{'"},
      {1, "not valid JSON"},
      {3, "the header's length is 3, but only 2 bytes follow it"},
      {100000000, "but only 2 bytes follow it"},
      {100000001, "the header's length is 100000001, but at most 100000000 bytes are allowed"},
      {UINT64_MAX, "the header's length is 18446744073709551615"},
      {UINT64_MAX - 7, "at most 100000000 bytes"},
  };
  for (size_t i = 0; i < LENGTH(cases); i++) {
    const image file = make_image(cases[i].header_length, "{}", 0);
    safetensors parsed;
    assert_int_equal(safetensors_parse(file.bytes, file.size, &parsed), EXIT_INPUT);
    if (strstr(failure_sentence(), cases[i].sentence) == NULL)
      fail_msg("header length %zu: %s", i, failure_sentence());
    free(file.bytes);
  }
}

/* No part of a file is a file, and no byte changed in one is worse than refused. */
static void survives_damage(void **state) {
  (void)state;
  const char *header =
      "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_offsets\":[0,4]},"
      "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,7]}}";
  const image whole = make_image(strlen(header), header, 7);
  safetensors file;
  for (size_t size = 0; size < whole.size; size++) {
    uint8_t *part = malloc(size > 0 ? size : 1);
    assert_non_null(part);
    memcpy(part, whole.bytes, size);
    assert_int_equal(safetensors_parse(part, size, &file), EXIT_INPUT);
    free(part);
  }
  static const uint8_t values[] = {0, 1, ' ', '"', '-', '0', '9', '[', ']', '{', '}', 0x7f, 0x80, 0xff};
  for (size_t place = 0; place < whole.size; place++)
    for (size_t v = 0; v < LENGTH(values); v++) {
      const uint8_t kept = whole.bytes[place];
      whole.bytes[place] = values[v];
      if (safetensors_parse(whole.bytes, whole.size, &file) == EXIT_OK)
        safetensors_free(&file);
      whole.bytes[place] = kept;
    }
  free(whole.bytes);
}

/* ---- Writing ------------------------------------------------------------------------------------ */

static char directory[64], target[96];

static int make_directory(void **state) {
  (void)state;
  strcpy(directory, "safetensors-test-XXXXXX");
  if (mkdtemp(directory) == NULL)
    return -1;
  snprintf(target, sizeof target, "%s/file", directory);
  return 0;
}

static int count_files(void) {
  DIR *opened = opendir(directory);
  assert_non_null(opened);
  int count = 0;
  for (const struct dirent *entry; (entry = readdir(opened)) != NULL;)
    count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  closedir(opened);
  return count;
}

static int remove_directory(void **state) {
  (void)state;
  char link[128];
  snprintf(link, sizeof link, "%s/link", directory);
  unlink(link);
  unlink(target);
  return rmdir(directory);
}

static const float lse_values[3] = {0, -1, 2.5f};
static const uint16_t out_values[3] = {1, 2, 0xffff};
static const int64_t extents[] = {1, 3};
static const st_tensor written[] = {
    {"lse", ST_F32, 1, extents + 1, lse_values, sizeof lse_values},
    {"out", ST_BF16, 2, extents, out_values, sizeof out_values},
    {"none", ST_I64, 0, NULL, "12345678", 8},
};

static void expect_written(const char *path) {
  uint8_t *bytes;
  size_t size;
  safetensors file;
  assert_int_equal(file_read(path, &bytes, &size), EXIT_OK);
  assert_int_equal(safetensors_parse(bytes, size, &file), EXIT_OK);
  assert_int_equal(file.num_tensors, LENGTH(written));
  for (size_t i = 0; i < LENGTH(written); i++) {
    const st_tensor *want = &written[i], *got = safetensors_find(&file, want->name);
    assert_non_null(got);
    assert_int_equal(got->dtype, want->dtype);
    assert_int_equal(got->rank, want->rank);
    for (size_t d = 0; d < want->rank; d++)
      assert_int_equal(got->shape[d], want->shape[d]);
    assert_int_equal(got->bytes, want->bytes);
    assert_memory_equal(got->data, want->data, want->bytes);
  }
  const st_tensor *lse = safetensors_find(&file, "lse");
  assert_int_equal(((const uint8_t *)lse->data - bytes) % 8, 0);
  safetensors_free(&file);
  free(bytes);
}

static void writes_what_it_reads(void **state) {
  (void)state;
  assert_int_equal(safetensors_write(target, written, LENGTH(written)), EXIT_OK);
  expect_written(target);
  assert_int_equal(safetensors_write(target, written, 1), EXIT_OK);
  assert_int_equal(safetensors_write(target, written, LENGTH(written)), EXIT_OK);
  expect_written(target);
  assert_int_equal(count_files(), 1);
}

static void writes_through_a_link(void **state) {
  (void)state;
  char link[128];
  snprintf(link, sizeof link, "%s/link", directory);
  assert_int_equal(safetensors_write(target, written, 1), EXIT_OK);
  assert_int_equal(symlink("file", link), 0);
  assert_int_equal(safetensors_write(link, written, LENGTH(written)), EXIT_OK);
  expect_written(target);
  struct stat status;
  assert_int_equal(lstat(link, &status), 0);
  assert_true(S_ISLNK(status.st_mode));
}

static void leaves_the_old_file_when_the_disk_is_full(void **state) {
  (void)state;
  assert_int_equal(safetensors_write(target, written, LENGTH(written)), EXIT_OK);
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit kept, small;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &kept), 0);
  small = kept;
  small.rlim_cur = 100;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  const int code = safetensors_write(target, written, LENGTH(written));
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &kept), 0);
  assert_int_equal(code, EXIT_ENVIRONMENT);
  assert_non_null(strstr(failure_sentence(), "File too large"));
  assert_int_equal(count_files(), 1);
  expect_written(target);
}

static void says_why_it_cannot_write(void **state) {
  (void)state;
  assert_int_equal(safetensors_write("/no/such/directory/file", written, 1), EXIT_ENVIRONMENT);
  assert_string_equal(failure_sentence(), "cannot write '/no/such/directory/file': No such file or directory");
  assert_int_equal(safetensors_write(directory, written, 1), EXIT_ENVIRONMENT);
  assert_non_null(strstr(failure_sentence(), "Is a directory"));
  assert_int_equal(safetensors_write("/dev/full", written, 1), EXIT_ENVIRONMENT);
  assert_non_null(strstr(failure_sentence(), "No space left on device"));
  assert_int_equal(safetensors_write("/dev/null", written, 1), EXIT_OK);
  struct stat status;
  assert_int_equal(stat("/dev/null", &status), 0);
  assert_true(S_ISCHR(status.st_mode));
}

static void says_why_it_cannot_read(void **state) {
  (void)state;
  uint8_t *bytes;
  size_t size;
  assert_int_equal(file_read("/no/such/file", &bytes, &size), EXIT_INPUT);
  assert_string_equal(failure_sentence(), "cannot open '/no/such/file': No such file or directory");
  assert_int_equal(file_read("/", &bytes, &size), EXIT_INPUT);
  assert_string_equal(failure_sentence(), "cannot read '/': Is a directory");
  assert_int_equal(file_read("/dev/null", &bytes, &size), EXIT_OK);
  assert_int_equal(size, 0);
  free(bytes);
}

/* ---- Rounding ----------------------------------------------------------------------------------- */

static void rounds_to_nearest_even(void **state) {
  (void)state;
  static const struct {
    uint32_t from;
    uint16_t bf16, fp16;
  } cases[] = {
      {0x00000000, 0x0000, 0x0000}, {0x80000000, 0x8000, 0x8000}, /* zeros */
      {0x3f800000, 0x3f80, 0x3c00}, {0xc0490fdb, 0xc049, 0xc248}, /* 1, -pi */
      {0x3f808000, 0x3f80, 0x3c04}, {0x3f818000, 0x3f82, 0x3c0c}, /* halfway in BF16: to even */
      {0x3f808001, 0x3f81, 0x3c04}, {0x3f801000, 0x3f80, 0x3c00}, /* above it; halfway in FP16 */
      {0x3f803000, 0x3f80, 0x3c02}, {0x3f801001, 0x3f80, 0x3c01}, /* halfway in FP16, above it */
      {0x477fefff, 0x4780, 0x7bff}, {0x477ff000, 0x4780, 0x7c00}, /* 65504 or infinity */
      {0x387fffff, 0x3880, 0x0400}, {0x38800000, 0x3880, 0x0400}, /* the smallest normal FP16 */
      {0x33800000, 0x3380, 0x0001}, {0x33000000, 0x3300, 0x0000}, /* the smallest FP16; half of it */
      {0x33000001, 0x3300, 0x0001}, {0xb3c00000, 0xb3c0, 0x8002}, /* above it; 1.5 of it */
      {0x7f7fffff, 0x7f80, 0x7c00}, {0x00000001, 0x0000, 0x0000}, /* the ends of F32 */
      {0x7f800000, 0x7f80, 0x7c00}, {0xff800000, 0xff80, 0xfc00}, /* infinities */
  };
  for (size_t i = 0; i < LENGTH(cases); i++) {
    uint8_t from[5]; /* at an odd address */
    memcpy(from + 1, &cases[i].from, 4);
    uint16_t bf16, fp16;
    round_floats(&bf16, FMLA_DTYPE_BF16, from + 1, 1);
    round_floats(&fp16, FMLA_DTYPE_FP16, from + 1, 1);
    if (bf16 != cases[i].bf16 || fp16 != cases[i].fp16)
      fail_msg("%08x: %04x, %04x", (unsigned)cases[i].from, (unsigned)bf16, (unsigned)fp16);
  }
  static const uint32_t nans[] = {0x7f800001, 0x7fc00000, 0xffffffff};
  for (size_t i = 0; i < LENGTH(nans); i++) {
    uint16_t bf16, fp16;
    round_floats(&bf16, FMLA_DTYPE_BF16, &nans[i], 1);
    round_floats(&fp16, FMLA_DTYPE_FP16, &nans[i], 1);
    assert_true((bf16 & 0x7fff) > 0x7f80 && (fp16 & 0x7fff) > 0x7c00);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_tensors_and_metadata),
      cmocka_unit_test(accepts_what_is_unusual_but_right),
      cmocka_unit_test(refuses_malformed_headers),
      cmocka_unit_test(refuses_wrong_lengths),
      cmocka_unit_test(survives_damage),
      cmocka_unit_test_setup_teardown(writes_what_it_reads, make_directory, remove_directory),
      cmocka_unit_test_setup_teardown(writes_through_a_link, make_directory, remove_directory),
      cmocka_unit_test_setup_teardown(leaves_the_old_file_when_the_disk_is_full, make_directory,
                                      remove_directory),
      cmocka_unit_test_setup_teardown(says_why_it_cannot_write, make_directory, remove_directory),
      cmocka_unit_test(says_why_it_cannot_read),
      cmocka_unit_test(rounds_to_nearest_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
