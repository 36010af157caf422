#include "cuda/tensor_map.h"

#include "cuda/error.h"

#define MAX_STRIDE_BYTES (INT64_C(1) << 40) /* exclusive */
enum { ELEMENT_BYTES = 2, MIN_BOX_KEYS = 16, MAX_BOX_KEYS = 64, BOX_COLUMNS = 64 };

static bool fits(int64_t extent, int64_t stride) {
  return extent == 1 || (stride > 0 && stride < MAX_STRIDE_BYTES / ELEMENT_BYTES);
}

bool fmlai_cuda_can_map(const fmla_decode_params *p) {
  return p->page_size % MIN_BOX_KEYS == 0 && p->num_pages > 0 && fits(p->page_size, p->kv_stride_token) &&
         fits(p->num_pages, p->kv_stride_page) && fits(p->num_kv_heads, p->kv_stride_head);
}

int32_t fmlai_cuda_box_keys(int32_t page_size) {
  int32_t keys = MAX_BOX_KEYS;
  while (page_size % keys != 0)
    keys /= 2;
  return keys;
}

/* Where the extent is 1 the stride says nothing, and may be one that the driver refuses. */
static uint64_t stride_bytes(int64_t extent, int64_t stride) {
  return extent == 1 ? BOX_COLUMNS * ELEMENT_BYTES : (uint64_t)stride * ELEMENT_BYTES;
}

fmla_status fmlai_cuda_map_kv_cache(const fmlai_cuda_context *c, const fmla_decode_params *p,
                                    fmlai_cuda_tensor_map *map) {
  const uint64_t extents[4] = {(uint64_t)p->head_dim_k, (uint64_t)p->page_size, (uint64_t)p->num_pages,
                               (uint64_t)p->num_kv_heads};
  const uint64_t strides[3] = {stride_bytes(p->page_size, p->kv_stride_token),
                               stride_bytes(p->num_pages, p->kv_stride_page),
                               stride_bytes(p->num_kv_heads, p->kv_stride_head)};
  const uint32_t box[4] = {BOX_COLUMNS, (uint32_t)fmlai_cuda_box_keys(p->page_size), 1, 1};
  const uint32_t element_strides[4] = {1, 1, 1, 1};
  return FMLAI_CUDA_CALL(c->driver, cuTensorMapEncodeTiled, map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, p->kv_cache,
                         extents, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
                         CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
