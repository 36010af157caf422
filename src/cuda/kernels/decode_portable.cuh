/*
 * The portable decode kernel's body, for sm_80 and newer: mma.sync on tiles of keys that cp.async brings in. The
 * including file defines, and this file undefines:
 *   KERNEL_NAME, ROWS, TILE_KEYS, WARPS, MAX_HEAD_DIM_V (variants.h), IS_FP16
 *
 * A CTA takes ROWS query rows against its share of keys, a tile of keys at a time:
 *   scores         SPLIT_K warps share 16 rows, each multiplies its part of head_dim_k for all keys of the tile; the
 *                  parts meet in shared memory. (Reading q and keys from shared memory is what bounds mma.sync here;
 *                  so every warp reads a part of them, and with 16 rows q stays in registers.)
 *   probabilities  THREADS_PER_ROW neighbouring threads have a row: its maximum, its sum. They put the probabilities
 *                  in 16 bits where the scores were.
 *   output         every warp has all rows and its own columns, 16 at a time.
 * Online softmax in base 2.
 */

#define ROW_BLOCKS (ROWS / 16)
#define SPLIT_K FMLAI_CUDA_SPLIT_K(ROWS, WARPS)
#define KEY_BLOCKS (TILE_KEYS / 8)
#define K_STEPS ((FMLAI_CUDA_MAX_HEAD_DIM_K / 16 + SPLIT_K - 1) / SPLIT_K) /* of a warp, at most */
#define Q_IN_REGISTERS (ROWS == 16)
#define NUM_THREADS (WARPS * 32)
#define THREADS_PER_ROW (NUM_THREADS / ROWS)
#define KEYS_PER_THREAD (TILE_KEYS / THREADS_PER_ROW)
#define KEYS_PER_LOAD (NUM_THREADS / 8)                       /* eight threads load 128 bytes of a key at a time */
#define NUM_LOADS (TILE_KEYS / KEYS_PER_LOAD)
#define NUM_PAIRS ((MAX_HEAD_DIM_V / 16 + WARPS - 1) / WARPS) /* 16-column blocks of the output of a warp */

#define USUAL_PAIRS (512 / 16 / WARPS)                        /* at head_dim_v 512 */

/* Scores of a row: chunks of 16 bytes, in an order that depends on the row so that eight rows lie in different banks. */
#define SCORE_CHUNKS (TILE_KEYS / 4)
#define SCORE_AT(row, chunk)                                                                                     \
  ((row)*TILE_KEYS * 4 + (((chunk) ^ ((row) / (8 / SCORE_CHUNKS) & (SCORE_CHUNKS - 1))) * 16))

#if IS_FP16
#define MMA mma_fp16
#define PACK pack_fp16
#else
#define MMA mma_bf16
#define PACK pack_bf16
#endif

extern "C" __global__ void __launch_bounds__(NUM_THREADS, ROWS == 16 ? 2 : 1)
    KERNEL_NAME(const __grid_constant__ fmlai_cuda_decode_args args) {
  extern __shared__ __align__(128) char shared[];
  const decode_args *a = &args;
  const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int pitch = FMLAI_CUDA_PITCH(a->head_dim_k);

  const uint32_t q_shared = shared_address(shared);
  const uint32_t scores = q_shared + FMLAI_CUDA_SCORES_OFFSET(ROWS, a->head_dim_k);
  float *factors = (float *)(shared + FMLAI_CUDA_STATS_OFFSET(ROWS, TILE_KEYS, WARPS, a->head_dim_k)); /* [ROWS] */
  piece *part = (piece *)(factors + ROWS);
  const uint32_t stages = q_shared + FMLAI_CUDA_STAGES_OFFSET(ROWS, TILE_KEYS, WARPS, a->head_dim_k);
  const uint32_t stage_bytes = FMLAI_CUDA_STAGE_BYTES(TILE_KEYS, a->head_dim_k);

  /* This thread's places: rows and part of head_dim_k for the scores; row and keys for the probabilities. */
  const int block_row = warp % ROW_BLOCKS * 16, k_first = warp / ROW_BLOCKS;
  const int my_steps = (a->head_dim_k / 16 - k_first + SPLIT_K - 1) / SPLIT_K;
  const int my_row = thread / THREADS_PER_ROW, my_keys = thread % THREADS_PER_ROW * KEYS_PER_THREAD;
  const int my_pairs = (a->head_dim_v / 16 - warp + WARPS - 1) / WARPS;

  const float scale_log2 = a->softmax_scale * 1.4426950408889634f;
  wait_for_turn();
  walk w;
  if (warp == 0)
    w = begin_walk(a, (int32_t)blockIdx.x, lane);
  else
    prefetch_table(a, (int32_t)blockIdx.x * (NUM_THREADS - 32) + thread - 32);
  write_unowned_rows(a, thread, NUM_THREADS);

  for (bool has_told = false;;) {
    if (warp == 0) {
      const piece next = next_piece(a, &w, lane);
      if (next.batch < 0 && !has_told)
        end_walk(lane);
      if (lane == 0)
        *part = next;
    }
    __syncthreads();
    if (part->batch < 0)
      break;

    const piece_rows rows = rows_of_piece(a, part, ROWS);
    const int32_t key_begin = part->block_begin * BLOCK_KEYS;
    const int32_t key_end = min(part->block_end * BLOCK_KEYS, part->seq.seqlen_k);
    const int num_tiles = (key_end - key_begin + TILE_KEYS - 1) / TILE_KEYS;

    /* The keys of each tile that this thread helps to load, and the pages of the next ones. */
    int32_t load_at = key_begin + thread / 8;
    int32_t load_page[NUM_LOADS];
#define FIND_PAGES()                                                                                             \
  _Pragma("unroll") for (int i = 0; i < NUM_LOADS; i++) load_page[i] =                                           \
      page_of_key(a, part->batch, load_at + i * KEYS_PER_LOAD, key_end)
#define LOAD_TILE(stage)                                                                                         \
  do {                                                                                                           \
    _Pragma("unroll") for (int i = 0; i < NUM_LOADS; i++)                                                        \
        load_key(a, rows.kv_head, load_at + i * KEYS_PER_LOAD, load_page[i], stages + (stage)*stage_bytes,            \
                 thread / 8 + i * KEYS_PER_LOAD, pitch, thread % 8);                                             \
    load_at += TILE_KEYS;                                                                                        \
    FIND_PAGES();                                                                                                \
  } while (0)
    FIND_PAGES();
    load_q_rows(a, part, &rows, ROWS, q_shared, pitch, thread, NUM_THREADS);
    for (int stage = 0; stage < a->num_stages - 1; stage++) {
      if (stage < num_tiles)
        LOAD_TILE(stage);
      cp_async_commit();
    }
    if (warp == 0 && w.position >= w.end) { /* this is the last piece */
      end_walk(lane);
      has_told = true;
    }

    /* Keys that this thread's row may see. */
    int32_t visible_end = key_end;
    if (a->flags & FLAG_CAUSAL)
      visible_end = min(key_end, part->seq.seqlen_k - part->seq.seqlen_q + (rows.first + my_row) / a->group_heads + 1);

    float o[ROW_BLOCKS][NUM_PAIRS][2][4];
    float row_max = -INFINITY, row_sum = 0;
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++)
#pragma unroll
      for (int pair = 0; pair < NUM_PAIRS; pair++)
#pragma unroll
        for (int i = 0; i < 8; i++)
          o[m][pair][i / 4][i % 4] = 0;

    const uint32_t q_at = q_shared + ((block_row + lane % 16) * pitch + k_first * 16 + lane / 16 * 8) * 2;
#if Q_IN_REGISTERS
    uint32_t q[K_STEPS][4];
    cp_async_wait(a->num_stages - 2);
    __syncthreads();
#pragma unroll
    for (int step = 0; step < K_STEPS; step++)
      if (step < my_steps)
        ldmatrix_x4(q[step], q_at + step * SPLIT_K * 32);
#endif

    int stage = 0, next_stage = a->num_stages - 1;
    for (int tile = 0; tile < num_tiles; tile++) {
      cp_async_wait(a->num_stages - 2);
      __syncthreads(); /* this tile's keys are there; the stage and the scores of the tile before are free */
      if (tile + a->num_stages - 1 < num_tiles)
        LOAD_TILE(next_stage);
      cp_async_commit();
      const uint32_t keys = stages + stage * stage_bytes;

      { /* Scores: 16 rows, all keys, this warp's part of head_dim_k. */
        float s[KEY_BLOCKS][4];
#pragma unroll
        for (int i = 0; i < KEY_BLOCKS * 4; i++)
          s[i / 4][i % 4] = 0;
        const uint32_t k_at = keys + ((lane / 16 * 8 + lane % 8) * pitch + k_first * 16 + lane / 8 % 2 * 8) * 2;
#define SCORE_STEP(step, q_step)                                                                                 \
  _Pragma("unroll") for (int n = 0; n < KEY_BLOCKS; n += 2) {                                                    \
    uint32_t k[4];                                                                                               \
    ldmatrix_x4(k, k_at + n * 8 * pitch * 2 + (step)*SPLIT_K * 32);                                              \
    MMA(s[n], q_step, k[0], k[1]);                                                                               \
    MMA(s[n + 1], q_step, k[2], k[3]);                                                                           \
  }
#if Q_IN_REGISTERS
        if (my_steps == K_STEPS) { /* without branches, loads run ahead of products */
#pragma unroll
          for (int step = 0; step < K_STEPS; step++)
            SCORE_STEP(step, q[step])
        } else {
#pragma unroll
          for (int step = 0; step < K_STEPS; step++)
            if (step < my_steps)
              SCORE_STEP(step, q[step])
        }
#else
#pragma unroll 3
        for (int step = 0; step < my_steps; step++) {
          uint32_t q_step[4];
          ldmatrix_x4(q_step, q_at + step * SPLIT_K * 32);
          SCORE_STEP(step, q_step)
        }
#endif
#undef SCORE_STEP
        const uint32_t to = scores + k_first * ROWS * TILE_KEYS * 4 + lane % 2 * 8;
#pragma unroll
        for (int n = 0; n < KEY_BLOCKS; n++)
#pragma unroll
          for (int half = 0; half < 2; half++)
            store_shared_64(to + SCORE_AT(block_row + half * 8 + lane / 4, n * 2 + lane % 4 / 2), s[n][2 * half],
                            s[n][2 * half + 1]);
      }
      __syncthreads();

      /* Probabilities of this thread's keys in its row. */
      float p[KEYS_PER_THREAD];
      float largest = row_max;
#pragma unroll
      for (int c = 0; c < KEYS_PER_THREAD; c += 4) {
        float4 sum = load_shared_128(scores + SCORE_AT(my_row, (my_keys + c) / 4));
#pragma unroll
        for (int k = 1; k < SPLIT_K; k++) {
          const float4 more = load_shared_128(scores + k * ROWS * TILE_KEYS * 4 + SCORE_AT(my_row, (my_keys + c) / 4));
          sum.x += more.x;
          sum.y += more.y;
          sum.z += more.z;
          sum.w += more.w;
        }
        p[c] = sum.x;
        p[c + 1] = sum.y;
        p[c + 2] = sum.z;
        p[c + 3] = sum.w;
      }
      const int32_t first_key = key_begin + tile * TILE_KEYS + my_keys;
#pragma unroll
      for (int i = 0; i < KEYS_PER_THREAD; i++) {
        p[i] = first_key + i < visible_end ? p[i] * scale_log2 : -INFINITY;
        largest = fmaxf(largest, p[i]);
      }
#pragma unroll
      for (int offset = THREADS_PER_ROW / 2; offset > 0; offset /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
      const float base = largest == -INFINITY ? 0 : largest;
      const float factor = exp2_approx(row_max - base);
      const bool raised = largest > row_max;
      row_max = largest;
      row_sum *= factor;
      if (thread % THREADS_PER_ROW == 0)
        factors[my_row] = factor;
      __syncwarp(); /* the row's scores are read */
#pragma unroll
      for (int c = 0; c < KEYS_PER_THREAD; c += 4) {
#pragma unroll
        for (int i = c; i < c + 4; i++) {
          p[i] = exp2_approx(p[i] - base);
          row_sum += p[i];
        }
        const int key = my_keys + c;
        store_shared_64u(scores + SCORE_AT(my_row, key / 8 * 2) + key % 8 * 2, PACK(p[c], p[c + 1]),
                         PACK(p[c + 2], p[c + 3]));
      }
      /* The output follows where a maximum rose; most tiles raise none. */
      if (__syncthreads_or(raised)) {
#pragma unroll
        for (int m = 0; m < ROW_BLOCKS; m++) {
          const float f[2] = {factors[m * 16 + lane / 4], factors[m * 16 + 8 + lane / 4]};
#pragma unroll
          for (int pair = 0; pair < NUM_PAIRS; pair++)
#pragma unroll
            for (int i = 0; i < 8; i++)
              o[m][pair][i / 4][i % 4] *= f[i % 4 / 2];
        }
      }

      /* Output: all rows, this warp's columns. */
      const uint32_t v_at = keys + (lane % 16 * pitch + warp * 16 + lane / 16 * 8) * 2;
#pragma unroll
      for (int k = 0; k < TILE_KEYS / 16; k++) {
        uint32_t p_block[ROW_BLOCKS][4];
#pragma unroll
        for (int m = 0; m < ROW_BLOCKS; m++)
          ldmatrix_x4(p_block[m], scores + SCORE_AT(m * 16 + lane % 16, k * 4 + lane / 16 * 2));
#define OUTPUT_PAIR(pair)                                                                                        \
  {                                                                                                              \
    uint32_t v[4];                                                                                               \
    ldmatrix_x4_trans(v, v_at + (k * 16 * pitch + (pair)*WARPS * 16) * 2);                                       \
    _Pragma("unroll") for (int m = 0; m < ROW_BLOCKS; m++) {                                                     \
      MMA(o[m][pair][0], p_block[m], v[0], v[1]);                                                                \
      MMA(o[m][pair][1], p_block[m], v[2], v[3]);                                                                \
    }                                                                                                            \
  }
        if (my_pairs >= USUAL_PAIRS) {
#pragma unroll
          for (int pair = 0; pair < USUAL_PAIRS; pair++)
            OUTPUT_PAIR(pair)
#pragma unroll
          for (int pair = USUAL_PAIRS; pair < NUM_PAIRS; pair++)
            if (pair < my_pairs)
              OUTPUT_PAIR(pair)
        } else {
#pragma unroll
          for (int pair = 0; pair < NUM_PAIRS; pair++)
            if (pair < my_pairs)
              OUTPUT_PAIR(pair)
        }
#undef OUTPUT_PAIR
      }
      stage = stage + 1 == a->num_stages ? 0 : stage + 1;
      next_stage = next_stage + 1 == a->num_stages ? 0 : next_stage + 1;
    }
    cp_async_wait(0);

    /* To every warp: the rows' factors for the output, and how each ends. */
#pragma unroll
    for (int offset = THREADS_PER_ROW / 2; offset > 0; offset /= 2)
      row_sum += __shfl_xor_sync(0xffffffffu, row_sum, offset);
    __syncthreads();
    if (thread % THREADS_PER_ROW == 0)
      factors[my_row] = my_row < rows.count ? end_row(a, part, &rows, my_row, ROWS, row_max, row_sum, true) : 0;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = m * 16 + half * 8 + lane / 4;
        if (row >= rows.count)
          continue;
        const float f = factors[row];
        int32_t dtype;
        void *out = row_target(a, part, &rows, row, ROWS, &dtype);
#pragma unroll
        for (int pair = 0; pair < NUM_PAIRS; pair++) {
          const int column = (pair * WARPS + warp) * 16 + lane % 4 * 2;
          if (pair < my_pairs) {
            store_pair(out, dtype, column, o[m][pair][0][2 * half] * f, o[m][pair][0][2 * half + 1] * f);
            store_pair(out, dtype, column + 8, o[m][pair][1][2 * half] * f, o[m][pair][1][2 * half + 1] * f);
          }
        }
      }
    __syncthreads(); /* before the next piece writes q, the factors and itself */
  }
}

#undef FIND_PAGES
#undef LOAD_TILE
#undef KERNEL_NAME
#undef ROWS
#undef TILE_KEYS
#undef WARPS
#undef MAX_HEAD_DIM_V
#undef IS_FP16
#undef ROW_BLOCKS
#undef SPLIT_K
#undef KEY_BLOCKS
#undef K_STEPS
#undef Q_IN_REGISTERS
#undef NUM_THREADS
#undef THREADS_PER_ROW
#undef KEYS_PER_THREAD
#undef KEYS_PER_LOAD
#undef NUM_LOADS
#undef NUM_PAIRS
#undef USUAL_PAIRS
#undef SCORE_CHUNKS
#undef SCORE_AT
#undef MMA
#undef PACK
