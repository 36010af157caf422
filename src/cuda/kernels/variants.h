/*
 * The compiled variants of the portable decode kernel, and their shared memory: for the host, which chooses one
 * and sizes its launch, and for the device code, which lays the memory out. Plain C.
 */
#ifndef FMLAI_CUDA_VARIANTS_H
#define FMLAI_CUDA_VARIANTS_H

/*
 * X(rows, tile_keys, warps, max_head_dim_v): query rows of a tile, keys of a stage, warps of a CTA.
 * Each is compiled for BF16 and FP16 as fmlai_decode_portable_bf16_rows16 and so on. The first two fit the 99
 * KiB of consumer cards at head_dim_k 576; the last needs an A100's or H100's shared memory.
 */
#define FMLAI_CUDA_PORTABLE_VARIANTS(X)                                                                        \
  X(16, 32, 4, 576)                                                                                            \
  X(32, 16, 4, 576)                                                                                            \
  X(64, 32, 8, 512)

enum { FMLAI_CUDA_MAX_STAGES = 7, FMLAI_CUDA_MAX_HEAD_DIM_K = 576 };

/* Elements from one row of q or keys to the next in shared memory: 16 bytes more than the row, so that eight
   rows of a matrix lie in different banks. */
#define FMLAI_CUDA_PITCH(head_dim_k) ((head_dim_k) + 8)

/* Warps that share 16 rows of scores, each with its part of head_dim_k. */
#define FMLAI_CUDA_SPLIT_K(rows, warps) ((warps) / ((rows) / 16))

/* Bytes of q, and of the scores: one FP32 [rows, tile_keys] from each warp that shares them. With 16 rows, q
   goes to registers at once and its memory becomes that of the scores. */
#define FMLAI_CUDA_Q_BYTES(rows, head_dim_k) ((rows)*FMLAI_CUDA_PITCH(head_dim_k) * 2)
#define FMLAI_CUDA_SCORE_BYTES(rows, tile_keys, warps)                                                         \
  (FMLAI_CUDA_SPLIT_K(rows, warps) * (rows) * (tile_keys)*4)

/* Byte offsets in shared memory: q, scores, rows' factors and sums, the CTA's piece, stages. */
#define FMLAI_CUDA_SCORES_OFFSET(rows, head_dim_k) ((rows) == 16 ? 0 : FMLAI_CUDA_Q_BYTES(rows, head_dim_k))
#define FMLAI_CUDA_STATS_OFFSET(rows, tile_keys, warps, head_dim_k)                                            \
  ((rows) == 16 ? (FMLAI_CUDA_Q_BYTES(rows, head_dim_k) > FMLAI_CUDA_SCORE_BYTES(rows, tile_keys, warps)       \
                       ? FMLAI_CUDA_Q_BYTES(rows, head_dim_k)                                                  \
                       : FMLAI_CUDA_SCORE_BYTES(rows, tile_keys, warps))                                       \
                : FMLAI_CUDA_Q_BYTES(rows, head_dim_k) + FMLAI_CUDA_SCORE_BYTES(rows, tile_keys, warps))
#define FMLAI_CUDA_STAGES_OFFSET(rows, tile_keys, warps, head_dim_k)                                           \
  (FMLAI_CUDA_STATS_OFFSET(rows, tile_keys, warps, head_dim_k) + (rows)*4 + 128)
#define FMLAI_CUDA_STAGE_BYTES(tile_keys, head_dim_k) ((tile_keys)*FMLAI_CUDA_PITCH(head_dim_k) * 2)

/* ---- Hopper: q, two stages of 64 keys, probabilities, control ------------------------------------------- */

/* X(rows, ctas, idle_32nds): query rows of a cluster; its CTAs, each of which has a tile of HOPPER_ROWS;
 * variant.h. */
#define FMLAI_CUDA_HOPPER_VARIANTS(X)                                                                          \
  X(64, 1, 1)                                                                                                  \
  X(128, 2, 0)

enum {
  HOPPER_ROWS = 64,
  HOPPER_THREADS = 384,
  HOPPER_TILE_BYTES = 64 * 576 * 2, /* of q, and of a stage */
  HOPPER_P_OFFSET = 3 * HOPPER_TILE_BYTES,
  HOPPER_CONTROL_OFFSET = HOPPER_P_OFFSET + 64 * 64 * 2,
  HOPPER_CONTROL_BYTES = 2560,
  HOPPER_SHARED_BYTES = HOPPER_CONTROL_OFFSET + HOPPER_CONTROL_BYTES
};
#define HOPPER_STAGE_OFFSET(stage) (((stage) + 1) * HOPPER_TILE_BYTES)

/* ---- Hopper, few rows: q, probabilities of two warpgroups, a ring of boxes of keys, control ------------ */

/* X(rows, boxes): query rows of a tile, boxes of 64 keys x 64 columns in the ring: as many as fit 227 KiB. */
#define FMLAI_CUDA_HOPPER_FEW_VARIANTS(X)                                                                      \
  X(16, 25)                                                                                                    \
  X(32, 22)

enum { HOPPER_FEW_MAX_ROWS = 32, HOPPER_FEW_MAX_BOXES = 25, HOPPER_FEW_CONTROL_BYTES = 4096 };
#define HOPPER_FEW_P_OFFSET(rows)              ((rows)*576 * 2)
#define HOPPER_FEW_RING_OFFSET(rows)           (HOPPER_FEW_P_OFFSET(rows) + 2 * (rows)*64 * 2)
#define HOPPER_FEW_CONTROL_OFFSET(rows, boxes) (HOPPER_FEW_RING_OFFSET(rows) + (boxes)*64 * 64 * 2)
#define HOPPER_FEW_SHARED_BYTES(rows, boxes)   (HOPPER_FEW_CONTROL_OFFSET(rows, boxes) + HOPPER_FEW_CONTROL_BYTES)

#endif
