/*
 * safetensors.h: files of named tensors: eight bytes with the header's length, a JSON header, the data.
 *
 * The reader takes nothing on trust: what it accepts is complete, consistent and within the buffer.
 */
#ifndef CLI_SAFETENSORS_H
#define CLI_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

struct json_t;

/* The types of elements, by their names in the header. */
typedef enum st_dtype {
  ST_BOOL,
  ST_U8,
  ST_I8,
  ST_F4,
  ST_F6_E2M3,
  ST_F6_E3M2,
  ST_F8_E5M2,
  ST_F8_E4M3,
  ST_F8_E8M0,
  ST_U16,
  ST_I16,
  ST_F16,
  ST_BF16,
  ST_U32,
  ST_I32,
  ST_F32,
  ST_U64,
  ST_I64,
  ST_F64,
  ST_C64,
  ST_NUM_DTYPES
} st_dtype;

const char *st_dtype_name(st_dtype dtype);

typedef struct st_tensor {
  const char *name;
  st_dtype dtype;
  size_t rank;
  const int64_t *shape;
  const void *data; /* of any alignment */
  size_t bytes;
} st_tensor;

typedef struct safetensors {
  size_t num_tensors;
  st_tensor *tensors; /* in the order of their data */
  int64_t *extents;   /* the shapes of all tensors */
  struct json_t *header;
} safetensors;

/* Reads a file that lies in memory; the tensors point into `data`. Returns EXIT_OK; else EXIT_INPUT for a
   malformed file or EXIT_ENVIRONMENT, after fail(), with nothing to free. */
int safetensors_parse(const uint8_t *data, size_t size, safetensors *file);
void safetensors_free(safetensors *file);

/* The tensor, or the value of a metadata key, of that name; NULL if there is none. */
const st_tensor *safetensors_find(const safetensors *file, const char *name);
const char *safetensors_metadata(const safetensors *file, const char *key);

/* Writes a file with the tensors in the order given, as file_write does; `bytes` must fit shape and dtype. */
int safetensors_write(const char *path, const st_tensor *tensors, size_t num_tensors);

#endif
