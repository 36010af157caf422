/*
 * flash_mla.h: Multi-head Latent Attention decoding from a paged KV cache.
 *
 * For every query head:  out = softmax(q . K^T * softmax_scale + mask) . V
 * where K and V are one cache: a token's entry is head_dim_k values and V is its first head_dim_v.
 *
 * The simple way, four calls (examples/decode.c is a whole program):
 *
 *   fmla_context *context = NULL;
 *   fmla_open(NULL, &context);                            the best device of this machine
 *   fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;       then set extents and pointers
 *   size_t bytes = 0;
 *   fmla_decode_workspace(context, &p, &bytes);           from shapes alone: once per shape
 *   fmla_decode(context, &p, workspace, bytes, stream);   every step, for every layer
 *   fmla_close(context);
 *
 * Rules for every call:
 * - A call that can fail returns fmla_status; on failure fmla_last_error() is one sentence that names the
 *   argument, what it was and what is allowed. No call exits, aborts, or prints (unless the environment
 *   variable FMLA_DEBUG is set to something other than 0: then choices are reported on stderr).
 * - Extents count elements, strides count elements, sizes in bytes say so in their names.
 * - Tensors are described as [dim, dim, ...], slowest first. The last dimension of q, kv_cache and out is
 *   contiguous; every other dimension has a stride. FMLA_PACKED stands for the stride of a tensor without
 *   gaps.
 * - Structs carry their size and grow at the end only, so programs built against an older header keep
 *   working.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FLASH_MLA_H
#define FLASH_MLA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FMLA_API __attribute__((visibility("default")))
#else
#define FMLA_API
#endif

#define FMLA_VERSION_MAJOR 0
#define FMLA_VERSION_MINOR 1
#define FMLA_VERSION_PATCH 0

/* The largest extents that any call takes. */
#define FMLA_MAX_HEADS    1024
#define FMLA_MAX_HEAD_DIM 4096
#define FMLA_MAX_THREADS  1024

/* ---- Status ------------------------------------------------------------------------------------ */

typedef enum fmla_status {
  FMLA_OK = 0,
  FMLA_ERROR_INVALID_ARGUMENT = 1, /* a rule of this header is broken */
  FMLA_ERROR_UNSUPPORTED = 2,      /* a valid request that this device or build cannot serve */
  FMLA_ERROR_OUT_OF_MEMORY = 3,    /* host or device memory could not be had */
  FMLA_ERROR_NO_DEVICE = 4,        /* the device asked for is not there, or its driver is too old */
  FMLA_ERROR_DEVICE = 5,           /* the driver refused or failed a call; its words are in the sentence */
  FMLA_ERROR_DEVICE_LOST = 6,      /* the device is in an error state that outlasts the call */
  FMLA_ERROR_INTERNAL = 7          /* a defect of this library */
} fmla_status;

/* The name of a status ("FMLA_OK"), and what it means in a few words; never NULL, for any value. */
FMLA_API const char *fmla_status_name(fmla_status status);
FMLA_API const char *fmla_status_text(fmla_status status);

/* The sentence of the last call of this thread that failed; "" if none has. Valid until the thread's next
   failing call. */
FMLA_API const char *fmla_last_error(void);

/* The library's version, as major * 1000000 + minor * 1000 + patch, and as "major.minor.patch". */
FMLA_API uint32_t fmla_version(void);
FMLA_API const char *fmla_version_string(void);

/* ---- Types of elements ------------------------------------------------------------------------- */

typedef enum fmla_dtype { FMLA_DTYPE_BF16 = 1, FMLA_DTYPE_FP16 = 2, FMLA_DTYPE_FP32 = 3 } fmla_dtype;

/* How a token's entry lies in the cache. Plain formats hold head_dim_k elements of one type. */
typedef enum fmla_kv_format { FMLA_KV_BF16 = 1, FMLA_KV_FP16 = 2 } fmla_kv_format;

/* The stride that leaves no gap: the next faster dimension's stride times its extent (at least 1), and the
   length of the contiguous last dimension for the fastest. Dimensions are as listed with each tensor, slowest
   first. */
#define FMLA_PACKED ((int64_t)-1)

/* ---- Devices and kernels of this machine ------------------------------------------------------- */

typedef struct fmla_device_info {
  size_t struct_size;    /* sizeof(fmla_device_info), set by the caller */
  char name[32];         /* what fmla_open takes: "cpu", "cuda:0" */
  char description[128]; /* the maker's name of the device */
  char features[256];    /* instruction sets, or the compute capability; separated by spaces */
  int32_t num_units;     /* hardware threads this process may use, or multiprocessors */
  int32_t reserved;
  uint64_t memory_bytes; /* main memory, or device memory */
} fmla_device_info;

typedef struct fmla_kernel_info {
  size_t struct_size;        /* sizeof(fmla_kernel_info), set by the caller */
  const char *name;          /* what fmla_config.kernel takes; static storage */
  const char *backend;       /* "cpu", "cuda" */
  const char *needs;         /* what the device must have, in words */
  const char *takes;         /* which calls it serves, in words */
  int32_t available;         /* 1 if a device of this machine can run it */
  int32_t probability_dtype; /* fmla_dtype of the probabilities in the product with V; sets the error bound */
} fmla_kernel_info;

/* The number of devices (at least 1, the CPU; the fastest kind first), and device `index` of them.
   Returns FMLA_ERROR_INVALID_ARGUMENT for an index out of range or an unset struct_size. */
FMLA_API int32_t fmla_device_count(void);
FMLA_API fmla_status fmla_get_device_info(int32_t index, fmla_device_info *info);

/* The number of kernels in this build, in order of preference, and kernel `index` of them. */
FMLA_API int32_t fmla_kernel_count(void);
FMLA_API fmla_status fmla_get_kernel_info(int32_t index, fmla_kernel_info *info);

/* ---- Contexts ---------------------------------------------------------------------------------- */

typedef struct fmla_context fmla_context;

typedef struct fmla_config {
  size_t struct_size;
  const char *device;  /* "auto" or NULL: the first device; "cpu"; "cuda:N" */
  const char *kernel;  /* NULL: the best kernel for each call; else this one or FMLA_ERROR_UNSUPPORTED */
  int32_t num_threads; /* CPU threads, the caller's included; 0: as many as this process may use */
  int32_t reserved;    /* 0 */
} fmla_config;

typedef struct fmla_context_info {
  size_t struct_size;
  char device[32];
  int32_t num_threads; /* CPU threads in use; fewer than asked for where they could not be created */
  int32_t num_sms;     /* multiprocessors; 0 on the CPU */
} fmla_context_info;

/* Opens a device: creates the threads, loads every kernel that decoding may need. `config` NULL: defaults.
   A context may be used by several threads at once. The CPU's threads do not survive fork(). */
FMLA_API fmla_status fmla_open(const fmla_config *config, fmla_context **context);

/* Ends a context; no call may be in flight on it. NULL is allowed. */
FMLA_API void fmla_close(fmla_context *context);

FMLA_API fmla_status fmla_get_context_info(const fmla_context *context, fmla_context_info *info);

/* ---- Decode ------------------------------------------------------------------------------------ */

/* Bits of fmla_decode_params.flags and fmla_merge_params.flags */
#define FMLA_CAUSAL            0x1u /* query t of n sees keys 0 .. seqlen_k - n + t: the last sees all */
#define FMLA_BATCH_INVARIANT   0x2u /* a sequence's bits do not depend on the rest of the batch */
#define FMLA_EMPTY_LSE_POS_INF 0x4u /* lse of a row without keys is +inf instead of -inf */
#define FMLA_CHECKED           0x8u /* on GPUs: validate table and lengths on the device, wait, report */

/*
 * One decode step of a batch. b = batch_size, h = num_q_heads, n = max_seqlen_q, dk = head_dim_k,
 * dv = head_dim_v. Pointers are to the device's memory (host memory on the CPU); a pointer to a tensor
 * without elements may be NULL.
 *
 * Every sequence has n query tokens (q is [b, n, h, dk]), or its own number of them: then cu_seqlens_q is
 * set and q is [total_q, h, dk], sequence i owning rows cu_seqlens_q[i] .. cu_seqlens_q[i + 1] - 1. Rows from
 * cu_seqlens_q[b] on get out = 0 and an empty row's lse.
 *
 * q may come in two tensors: `q` with the first dk - head_dim_rope values of a head, `q_rope` with the last
 * head_dim_rope.
 *
 * Query head i reads KV head i / (h / num_kv_heads).
 *
 * Token t of sequence i lies in page block_table[i][t / page_size] at slot t % page_size. What a page holds
 * beyond the named tokens is never used, NaN or not. A table entry beyond the sequence's length is never
 * looked at.
 *
 * A row without keys (seqlen 0, or masked wholly) gives out = 0, lse = -inf. A sink s scales out by
 * exp(lse) / (exp(lse) + exp(s)) and leaves lse as it is. For partial results, give the sink to fmla_merge
 * alone.
 *
 * Scores and sums are FP32: a call whose q . k, or whose sum of values, leaves the range of FP32 gives
 * infinities or NaN in the rows concerned.
 *
 * Bad lengths and page numbers: the CPU refuses the call and names them. A GPU clamps lengths to
 * [0, min(max_pages_per_seq * page_size, max_seqlen_k)] and takes pages outside [0, num_pages) for zeros;
 * with FMLA_CHECKED it reports them instead.
 *
 * GPUs take bases and strides of q, q_rope, kv_cache and out that are multiples of 16 bytes, and head dims that
 * are multiples of 16, head_dim_k up to 576; else the call is FMLA_ERROR_UNSUPPORTED.
 *
 * With FMLA_BATCH_INVARIANT a sequence of L tokens is computed in max(min(4, ceil(L / s)), min(8, ceil(L /
 * 4096))) splits of equal length, rounded up to 64 tokens, whatever else is in the batch; s is 1024 where up to
 * 32 query rows (tokens x heads) share a KV head, else 2048.
 */
typedef struct fmla_decode_params {
  size_t struct_size;

  /* Extents. The values in brackets are the initializer's. */
  int32_t batch_size;        /* >= 0 [0] */
  int32_t num_q_heads;       /* 1 .. FMLA_MAX_HEADS, a multiple of num_kv_heads [0] */
  int32_t num_kv_heads;      /* >= 1 [1] */
  int32_t head_dim_k;        /* 1 .. FMLA_MAX_HEAD_DIM [576] */
  int32_t head_dim_v;        /* 1 .. head_dim_k [512] */
  int32_t head_dim_rope;     /* with q_rope: 1 .. head_dim_k - 1 [64]; else not read */
  int32_t max_seqlen_q;      /* query tokens of each sequence; with cu_seqlens_q, of the longest [1] */
  int32_t page_size;         /* tokens in a page, >= 1 [64] */
  int64_t total_q;           /* with cu_seqlens_q: rows of q; else 0 or batch_size * max_seqlen_q [0] */
  int64_t num_pages;         /* pages in the cache, 0 .. 2^31 - 1 [0] */
  int32_t max_pages_per_seq; /* columns of block_table, >= 0 [0] */
  int32_t max_seqlen_k;      /* bound on cache_seqlens known to the host; 0: what the table holds [0] */

  float softmax_scale; /* finite, > 0; multiplies q . k [0: must be set] */
  uint32_t flags;      /* FMLA_CAUSAL | ... [0] */
  int32_t max_sms;     /* on GPUs: use at most so many multiprocessors; 0: all [0] */

  int32_t q_dtype;   /* fmla_dtype of q and q_rope: BF16 or FP16, the cache's [BF16] */
  int32_t kv_format; /* fmla_kv_format [BF16] */
  int32_t out_dtype; /* fmla_dtype of out [BF16] */

  /* Inputs */
  const void *q;                /* [b, n, h, dk], or [total_q, h, dk]; dk - head_dim_rope with q_rope */
  const void *q_rope;           /* [b, n, h, head_dim_rope], or [total_q, h, head_dim_rope]; or NULL */
  const void *kv_cache;         /* [num_pages, page_size, num_kv_heads, dk] */
  const int32_t *block_table;   /* [b, max_pages_per_seq]: page numbers */
  const int32_t *cache_seqlens; /* [b]: tokens of each sequence in the cache */
  const int32_t *cu_seqlens_q;  /* [b + 1], from 0, never falling, at most total_q; or NULL */
  const float *sink;            /* [h] or NULL */

  /* Outputs; they may not overlap any input */
  void *out;  /* [b, n, h, dv], or [total_q, h, dv] */
  float *lse; /* [b, h, n], or [h, total_q]: natural logarithm; or NULL */

  /* Strides in elements, >= 0 or FMLA_PACKED [FMLA_PACKED]. With cu_seqlens_q those of the batch are not read,
     without q_rope its own. Elements of out and lse may not overlap. 0 repeats an input along a dimension. */
  int64_t q_stride_batch, q_stride_token, q_stride_head;
  int64_t q_rope_stride_batch, q_rope_stride_token, q_rope_stride_head;
  int64_t kv_stride_page, kv_stride_token, kv_stride_head;
  int64_t block_table_stride;
  int64_t out_stride_batch, out_stride_token, out_stride_head;
  int64_t lse_stride_batch, lse_stride_token, lse_stride_head;
} fmla_decode_params;

/*
 * The bytes of workspace that fmla_decode needs for these extents, whatever the lengths and the pages: only
 * extents, dtypes, flags, strides and max_sms are read, and of the pointers whether cu_seqlens_q and q_rope
 * are NULL. It never shrinks when batch_size, total_q, max_seqlen_q, max_pages_per_seq or a max_seqlen_k that
 * is set grows, so the workspace of the largest step serves all. *workspace_bytes is 0 after a failure.
 */
FMLA_API fmla_status fmla_decode_workspace(const fmla_context *context, const fmla_decode_params *params,
                                           size_t *workspace_bytes);

/*
 * Decodes one step. `workspace` is memory of the device with any content and alignment; it serves one call in
 * flight. `stream` is a CUstream on GPUs (NULL: the default stream) and NULL on the CPU, where the call
 * returns when the work is done. Allocates nothing; on a GPU it only enqueues work, so that it can be
 * captured in a CUDA graph and replayed with other values in the same places. Until that work is done nothing
 * may write to the inputs: under lengths that change a step need not end.
 *
 * Deterministic: the same inputs give the same bits on one device and library, whatever the thread count.
 */
FMLA_API fmla_status fmla_decode(fmla_context *context, const fmla_decode_params *params, void *workspace,
                                 size_t workspace_bytes, void *stream);

/* Which kernel fmla_decode would run for these extents, and why; static storage. The pointers in `params` are
   treated as in fmla_decode_workspace. `reason` may be NULL. */
FMLA_API fmla_status fmla_decode_kernel(const fmla_context *context, const fmla_decode_params *params,
                                        const char **kernel, const char **reason);

/* ---- Merge ------------------------------------------------------------------------------------- */

/*
 * Merges partial results over disjoint sets of keys, such as one from each rank of a context-parallel group:
 *   lse = log(sum_p exp(lse_p)),   out = sum_p exp(lse_p - lse) out_p
 * A part whose lse is -inf (or +inf, with FMLA_EMPTY_LSE_POS_INF) has no keys; its out is not read. If no part
 * has keys, out = 0 and lse is that of an empty row. Parts are merged in order: deterministic.
 * For results of the form [total_q, ...] take batch_size 1 and seqlen_q total_q.
 */
typedef struct fmla_merge_params {
  size_t struct_size;

  int32_t num_parts;   /* >= 0 [0] */
  int32_t batch_size;  /* >= 0 [0] */
  int32_t seqlen_q;    /* >= 0 [1] */
  int32_t num_q_heads; /* 1 .. FMLA_MAX_HEADS [0] */
  int32_t head_dim_v;  /* 1 .. FMLA_MAX_HEAD_DIM [512] */
  uint32_t flags;      /* 0 or FMLA_EMPTY_LSE_POS_INF [0] */
  int32_t part_dtype;  /* fmla_dtype of out_parts [FP32] */
  int32_t out_dtype;   /* fmla_dtype of out [BF16] */

  const void *out_parts;  /* [num_parts, batch_size, seqlen_q, num_q_heads, head_dim_v] */
  const float *lse_parts; /* [num_parts, batch_size, num_q_heads, seqlen_q] */
  const float *sink;      /* [num_q_heads] or NULL */
  void *out;              /* [batch_size, seqlen_q, num_q_heads, head_dim_v]; may not overlap the parts */
  float *lse;             /* [batch_size, num_q_heads, seqlen_q] or NULL */

  /* Strides in elements, >= 0 or FMLA_PACKED [FMLA_PACKED] */
  int64_t out_parts_stride_part, out_parts_stride_batch, out_parts_stride_token, out_parts_stride_head;
  int64_t lse_parts_stride_part, lse_parts_stride_batch, lse_parts_stride_token, lse_parts_stride_head;
  int64_t out_stride_batch, out_stride_token, out_stride_head;
  int64_t lse_stride_batch, lse_stride_token, lse_stride_head;
} fmla_merge_params;

FMLA_API fmla_status fmla_merge(fmla_context *context, const fmla_merge_params *params, void *stream);

/* ---- Initializers ------------------------------------------------------------------------------ */

static inline fmla_config fmla_config_default(void) {
  fmla_config c;
  memset(&c, 0, sizeof c);
  c.struct_size = sizeof c;
  return c;
}
#define FMLA_CONFIG_INIT fmla_config_default()

static inline fmla_decode_params fmla_decode_params_default(void) {
  fmla_decode_params p;
  memset(&p, 0, sizeof p);
  p.struct_size = sizeof p;
  p.num_kv_heads = 1;
  p.head_dim_k = 576;
  p.head_dim_v = 512;
  p.head_dim_rope = 64;
  p.max_seqlen_q = 1;
  p.page_size = 64;
  p.q_dtype = FMLA_DTYPE_BF16;
  p.kv_format = FMLA_KV_BF16;
  p.out_dtype = FMLA_DTYPE_BF16;
  p.q_stride_batch = p.q_stride_token = p.q_stride_head = FMLA_PACKED;
  p.q_rope_stride_batch = p.q_rope_stride_token = p.q_rope_stride_head = FMLA_PACKED;
  p.kv_stride_page = p.kv_stride_token = p.kv_stride_head = FMLA_PACKED;
  p.block_table_stride = FMLA_PACKED;
  p.out_stride_batch = p.out_stride_token = p.out_stride_head = FMLA_PACKED;
  p.lse_stride_batch = p.lse_stride_token = p.lse_stride_head = FMLA_PACKED;
  return p;
}
#define FMLA_DECODE_PARAMS_INIT fmla_decode_params_default()

static inline fmla_merge_params fmla_merge_params_default(void) {
  fmla_merge_params p;
  memset(&p, 0, sizeof p);
  p.struct_size = sizeof p;
  p.seqlen_q = 1;
  p.head_dim_v = 512;
  p.part_dtype = FMLA_DTYPE_FP32;
  p.out_dtype = FMLA_DTYPE_BF16;
  p.out_parts_stride_part = p.out_parts_stride_batch = FMLA_PACKED;
  p.out_parts_stride_token = p.out_parts_stride_head = FMLA_PACKED;
  p.lse_parts_stride_part = p.lse_parts_stride_batch = FMLA_PACKED;
  p.lse_parts_stride_token = p.lse_parts_stride_head = FMLA_PACKED;
  p.out_stride_batch = p.out_stride_token = p.out_stride_head = FMLA_PACKED;
  p.lse_stride_batch = p.lse_stride_token = p.lse_stride_head = FMLA_PACKED;
  return p;
}
#define FMLA_MERGE_PARAMS_INIT fmla_merge_params_default()

/* ---- Advanced: memory and streams of a device, for programs without its toolkit ----------------- */

/* `bytes` of the device's memory, aligned to 256 bytes and uninitialised. 0 bytes gives NULL. */
FMLA_API fmla_status fmla_buffer_alloc(fmla_context *context, size_t bytes, void **buffer);
/* NULL is allowed. No work that uses the buffer may be in flight. */
FMLA_API fmla_status fmla_buffer_free(fmla_context *context, void *buffer);
/* Host to device and device to host; they return when the host memory may be used again. */
FMLA_API fmla_status fmla_buffer_upload(fmla_context *context, void *buffer, const void *host, size_t bytes,
                                        void *stream);
FMLA_API fmla_status fmla_buffer_download(fmla_context *context, void *host, const void *buffer, size_t bytes,
                                          void *stream);

/* A stream to order work on. The CPU has none: there *stream is NULL, and NULL is what the calls take. */
FMLA_API fmla_status fmla_stream_create(fmla_context *context, void **stream);
FMLA_API fmla_status fmla_stream_destroy(fmla_context *context, void *stream);
FMLA_API fmla_status fmla_stream_synchronize(fmla_context *context, void *stream);

#ifdef __cplusplus
}
#endif
#endif
