#include "safetensors.h"

#include "common.h"
#include "file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

static const struct {
  const char *name;
  int bits;
} dtypes[ST_NUM_DTYPES] = {
    [ST_BOOL] = {"BOOL", 8},       [ST_U8] = {"U8", 8},           [ST_I8] = {"I8", 8},
    [ST_F4] = {"F4", 4},           [ST_F6_E2M3] = {"F6_E2M3", 6}, [ST_F6_E3M2] = {"F6_E3M2", 6},
    [ST_F8_E5M2] = {"F8_E5M2", 8}, [ST_F8_E4M3] = {"F8_E4M3", 8}, [ST_F8_E8M0] = {"F8_E8M0", 8},
    [ST_U16] = {"U16", 16},        [ST_I16] = {"I16", 16},        [ST_F16] = {"F16", 16},
    [ST_BF16] = {"BF16", 16},      [ST_U32] = {"U32", 32},        [ST_I32] = {"I32", 32},
    [ST_F32] = {"F32", 32},        [ST_U64] = {"U64", 64},        [ST_I64] = {"I64", 64},
    [ST_F64] = {"F64", 64},        [ST_C64] = {"C64", 64},
};

const char *st_dtype_name(st_dtype dtype) {
  return dtypes[dtype].name;
}

/* ---- One entry of the header -------------------------------------------------------------------- */

static int bad_tensor(const char *name, const char *what) {
  return fail(EXIT_INPUT, "tensor '%s' %s", name, what);
}

static int parse_dtype(const json_t *value, st_tensor *tensor) {
  const char *name = json_string_value(value);
  if (name == NULL)
    return bad_tensor(tensor->name, "has no string \"dtype\"");
  for (int i = 0; i < ST_NUM_DTYPES; i++)
    if (strcmp(name, dtypes[i].name) == 0) {
      tensor->dtype = (st_dtype)i;
      return EXIT_OK;
    }
  return fail(EXIT_INPUT, "tensor '%s' has the unknown dtype '%s'", tensor->name, name);
}

/* Stores the shape in `extents`, and the bytes that it takes in tensor->bytes. */
static int parse_shape(const json_t *value, st_tensor *tensor, int64_t *extents) {
  if (!json_is_array(value))
    return bad_tensor(tensor->name, "has no array \"shape\"");
  size_t bits = (size_t)dtypes[tensor->dtype].bits;
  bool empty = false, overflow = false;
  tensor->rank = json_array_size(value);
  tensor->shape = extents;
  for (size_t i = 0; i < tensor->rank; i++) {
    const json_t *extent = json_array_get(value, i);
    if (!json_is_integer(extent) || json_integer_value(extent) < 0)
      return bad_tensor(tensor->name, "has a \"shape\" that is not made of integers of 0 or more");
    extents[i] = json_integer_value(extent);
    empty = empty || extents[i] == 0;
    overflow = overflow || __builtin_mul_overflow(bits, (uint64_t)extents[i], &bits);
  }
  if (overflow && !empty)
    return bad_tensor(tensor->name, "has a \"shape\" with more elements than 64 bits can count");
  if (!empty && bits % 8 != 0)
    return bad_tensor(tensor->name, "does not end at a whole byte");
  tensor->bytes = empty ? 0 : bits / 8;
  return EXIT_OK;
}

static int parse_offsets(const json_t *value, st_tensor *tensor, const uint8_t *data, size_t data_bytes) {
  const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
  if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end))
    return bad_tensor(tensor->name, "has no \"data_offsets\" of two integers");
  const json_int_t from = json_integer_value(begin), to = json_integer_value(end);
  if (from < 0 || from > to || (uint64_t)to > data_bytes)
    return fail(EXIT_INPUT,
                "tensor '%s' has the data_offsets [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                "], but the file has %zu bytes of data",
                tensor->name, from, to, data_bytes);
  if ((size_t)(to - from) != tensor->bytes)
    return fail(EXIT_INPUT, "tensor '%s' has %zu bytes of data, but its dtype and shape make %zu", tensor->name,
                (size_t)(to - from), tensor->bytes);
  tensor->data = data + from;
  return EXIT_OK;
}

static int check_metadata(json_t *metadata) {
  if (!json_is_object(metadata))
    return fail(EXIT_INPUT, "__metadata__ is not an object");
  const char *key;
  json_t *value;
  json_object_foreach(metadata, key, value) {
    if (!json_is_string(value))
      return fail(EXIT_INPUT, "__metadata__ has a '%s' that is not a string", key);
  }
  return EXIT_OK;
}

/* ---- The whole header --------------------------------------------------------------------------- */

/* jansson says of most failures to allocate that the text is wrong; this tells the two apart. */
static bool memory_ran_out;

static void *allocate_noting_failure(size_t bytes) {
  void *memory = malloc(bytes);
  memory_ran_out = memory_ran_out || memory == NULL;
  return memory;
}

static int load_header(const uint8_t *data, size_t size, json_t **header, size_t *header_bytes) {
  if (size < LENGTH_BYTES)
    return fail(EXIT_INPUT, "the file has %zu bytes, but a safetensors file has at least %d", size,
                LENGTH_BYTES + 2);
  uint64_t length = 0;
  for (int i = LENGTH_BYTES - 1; i >= 0; i--)
    length = length << 8 | data[i];
  if (length > MAX_HEADER_BYTES)
    return fail(EXIT_INPUT, "the header's length is %" PRIu64 ", but at most %d bytes are allowed", length,
                MAX_HEADER_BYTES);
  if (length > size - LENGTH_BYTES)
    return fail(EXIT_INPUT, "the header's length is %" PRIu64 ", but only %zu bytes follow it", length,
                size - LENGTH_BYTES);
  const char *text = (const char *)data + LENGTH_BYTES;
  if (length == 0 || text[0] != '{')
    return fail(EXIT_INPUT, "the header does not begin with '{'");
  json_error_t error;
  memory_ran_out = false;
  json_set_alloc_funcs(allocate_noting_failure, free);
  *header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
  if (*header == NULL)
    return memory_ran_out ? fail_memory() : fail(EXIT_INPUT, "the header is not valid JSON: %s", error.text);
  *header_bytes = (size_t)length;
  return EXIT_OK;
}

static int allocate(safetensors *file) {
  size_t num_tensors = 0, num_extents = 0;
  const char *key;
  json_t *entry;
  json_object_foreach(file->header, key, entry) {
    num_tensors++;
    num_extents += json_array_size(json_object_get(entry, "shape"));
  }
  file->tensors = calloc(num_tensors + 1, sizeof *file->tensors);
  file->extents = calloc(num_extents + 1, sizeof *file->extents);
  return file->tensors != NULL && file->extents != NULL ? EXIT_OK : fail_memory();
}

static int parse_entries(safetensors *file, const uint8_t *data, size_t data_bytes) {
  int64_t *extents = file->extents;
  const char *key;
  json_t *entry;
  json_object_foreach(file->header, key, entry) {
    int code;
    if (strcmp(key, "__metadata__") == 0) {
      if ((code = check_metadata(entry)) != EXIT_OK)
        return code;
      continue;
    }
    st_tensor *tensor = &file->tensors[file->num_tensors++];
    tensor->name = key;
    if (!json_is_object(entry))
      return bad_tensor(key, "is not described by an object");
    if ((code = parse_dtype(json_object_get(entry, "dtype"), tensor)) != EXIT_OK ||
        (code = parse_shape(json_object_get(entry, "shape"), tensor, extents)) != EXIT_OK ||
        (code = parse_offsets(json_object_get(entry, "data_offsets"), tensor, data, data_bytes)) != EXIT_OK)
      return code;
    extents += tensor->rank;
  }
  return EXIT_OK;
}

static int compare_places(const void *a, const void *b) {
  const st_tensor *left = a, *right = b;
  const uint8_t *left_data = left->data, *right_data = right->data;
  if (left_data != right_data)
    return left_data < right_data ? -1 : 1;
  return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

/* The data of the tensors, in order, must be all the data there is. */
static int check_places(safetensors *file, const uint8_t *data, size_t data_bytes) {
  qsort(file->tensors, file->num_tensors, sizeof *file->tensors, compare_places);
  const uint8_t *end = data;
  for (size_t i = 0; i < file->num_tensors; i++) {
    const st_tensor *tensor = &file->tensors[i];
    const uint8_t *begin = tensor->data;
    if (begin < end)
      return bad_tensor(tensor->name, "overlaps another tensor");
    if (begin > end)
      return fail(EXIT_INPUT, "tensor '%s' has a gap of %td bytes before it", tensor->name, begin - end);
    end = begin + tensor->bytes;
  }
  if (end != data + data_bytes)
    return fail(EXIT_INPUT, "the file has %zu bytes of data, but its tensors only %td", data_bytes, end - data);
  return EXIT_OK;
}

int safetensors_parse(const uint8_t *data, size_t size, safetensors *file) {
  *file = (safetensors){0};
  size_t header_bytes = 0;
  int code = load_header(data, size, &file->header, &header_bytes);
  if (code != EXIT_OK)
    return code;
  const uint8_t *tensor_data = data + LENGTH_BYTES + header_bytes;
  const size_t tensor_bytes = size - LENGTH_BYTES - header_bytes;
  if ((code = allocate(file)) != EXIT_OK ||
      (code = parse_entries(file, tensor_data, tensor_bytes)) != EXIT_OK ||
      (code = check_places(file, tensor_data, tensor_bytes)) != EXIT_OK)
    safetensors_free(file);
  return code;
}

void safetensors_free(safetensors *file) {
  free(file->tensors);
  free(file->extents);
  json_decref(file->header);
  *file = (safetensors){0};
}

/* ---- Looking up --------------------------------------------------------------------------------- */

const st_tensor *safetensors_find(const safetensors *file, const char *name) {
  for (size_t i = 0; i < file->num_tensors; i++)
    if (strcmp(file->tensors[i].name, name) == 0)
      return &file->tensors[i];
  return NULL;
}

const char *safetensors_metadata(const safetensors *file, const char *key) {
  return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

/* ---- Writing ------------------------------------------------------------------------------------ */

static json_t *describe(const st_tensor *tensor, size_t offset) {
  json_t *shape = json_array();
  for (size_t i = 0; i < tensor->rank; i++)
    if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
      json_decref(shape);
      return NULL;
    }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtypes[tensor->dtype].name, "shape", shape, "data_offsets",
                   (json_int_t)offset, (json_int_t)offset + (json_int_t)tensor->bytes);
}

static char *dump_header(const st_tensor *tensors, size_t num_tensors) {
  json_t *header = json_object();
  size_t offset = 0;
  bool complete = header != NULL;
  for (size_t i = 0; complete && i < num_tensors; i++) {
    complete = json_object_set_new(header, tensors[i].name, describe(&tensors[i], offset)) == 0;
    offset += tensors[i].bytes;
  }
  char *text = complete ? json_dumps(header, JSON_COMPACT) : NULL;
  json_decref(header);
  return text;
}

int safetensors_write(const char *path, const st_tensor *tensors, size_t num_tensors) {
  char *text = dump_header(tensors, num_tensors);
  file_part *parts = calloc(num_tensors + 3, sizeof *parts);
  int code = EXIT_ENVIRONMENT;
  if (text == NULL || parts == NULL) {
    fail_memory();
  } else {
    const size_t text_bytes = strlen(text);
    const size_t padding = (8 - text_bytes % 8) % 8; /* spaces, so that the data is aligned */
    uint8_t length[LENGTH_BYTES];
    for (int i = 0; i < LENGTH_BYTES; i++)
      length[i] = (uint8_t)((text_bytes + padding) >> 8 * i);
    parts[0] = (file_part){length, sizeof length};
    parts[1] = (file_part){text, text_bytes};
    parts[2] = (file_part){"        ", padding};
    for (size_t i = 0; i < num_tensors; i++)
      parts[3 + i] = (file_part){tensors[i].data, tensors[i].bytes};
    code = file_write(path, parts, num_tensors + 3);
  }
  free(parts);
  free(text);
  return code;
}
