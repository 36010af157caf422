/* The KV cache as Hopper's copy engine sees it. */
#ifndef FMLAI_CUDA_TENSOR_MAP_H
#define FMLAI_CUDA_TENSOR_MAP_H

#include "cuda/context.h"
#include "cuda/kernels/args.h"

/* Whether a tensor map can describe the cache. */
bool fmlai_cuda_can_map(const fmla_decode_params *params);

/* Keys of a page that one copy brings: as many as divide both a page and a tile of 64. */
int32_t fmlai_cuda_box_keys(int32_t page_size);

/* A 4-dimensional map [kv head, page, token, column] whose boxes are 64 columns of fmlai_cuda_box_keys keys. */
fmla_status fmlai_cuda_map_kv_cache(const fmlai_cuda_context *c, const fmla_decode_params *params,
                                    fmlai_cuda_tensor_map *map);

#endif
