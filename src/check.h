/*
 * Every rule on the arguments of the public calls, in one place. A rule that is broken is
 * FMLA_ERROR_INVALID_ARGUMENT with a sentence that names the argument, its value and what is allowed.
 */
#ifndef FMLAI_CHECK_H
#define FMLAI_CHECK_H

#include "flash_mla.h"

/* A pointer that may not be NULL. */
fmla_status fmlai_check_given(const char *name, const void *pointer);

/* Copies the caller's struct, whatever header it was built against, into *config. NULL gives the defaults. */
fmla_status fmlai_check_config(const fmla_config *given, fmla_config *config);

/* Extents, dtypes, flags and strides: all that fmla_decode_workspace may look at. In *params strides are
   resolved, total_q and head_dim_rope are set in every case, and max_seqlen_k is at most what the table holds.
 */
fmla_status fmlai_check_decode_extents(const fmla_decode_params *given, fmla_decode_params *params);

/* The pointers of params that passed fmlai_check_decode_extents. */
fmla_status fmlai_check_decode_pointers(const fmla_decode_params *params);

/* The values of cache_seqlens, cu_seqlens_q and the used part of block_table, in host memory. */
fmla_status fmlai_check_decode_values(const fmla_decode_params *params);

/* The rules on a single value, for values that lie in a device's memory: cu_seqlens_q[0]; entries `batch` and
   batch + 1; the last entry; cache_seqlens[batch]; block_table[batch][column]. */
fmla_status fmlai_check_first_query(int32_t value);
fmla_status fmlai_check_queries(const fmla_decode_params *params, int32_t batch, int32_t begin, int32_t end);
fmla_status fmlai_check_last_query(const fmla_decode_params *params, int32_t value);
fmla_status fmlai_check_cache_seqlen(const fmla_decode_params *params, int32_t batch, int32_t value);
fmla_status fmlai_check_page(const fmla_decode_params *params, int32_t batch, int64_t column, int32_t value);

fmla_status fmlai_check_merge(const fmla_merge_params *given, fmla_merge_params *params);

/* `needed` bytes of workspace are there. */
fmla_status fmlai_check_workspace(const void *workspace, size_t given_bytes, size_t needed_bytes);

/* For the calls that fill in a struct of the caller: its size is at least that of version 0.1. */
fmla_status fmlai_check_struct_size(const char *name, size_t given, size_t least);

#endif
