/*
 * The Hopper decode kernel's body, for head_dim_k 576 and head_dim_v 512: 64 query rows against tiles of 64 keys. The
 * including file defines, and this file undefines: KERNEL_NAME, IS_PAIR (0 or 1), TYPE (bf16 or f16, as in PTX), PACK.
 *
 * Warpgroups 0 and 1 compute, in turns: warpgroup t % 2 owns a piece's tile t, which lies in stage t % 2. They are counted
 * anew in each piece: an owner begins with its half of the columns, and bits are to depend on the piece alone. It
 * multiplies q by the tile's keys and makes the probabilities; then each warpgroup adds the tile to its half of the
 * output's columns. So of a stage each warpgroup reads one half of the columns last, and hands it back by itself.
 * Probabilities go to the other warpgroup through shared memory: one place is enough, as it has added the last ones before
 * it makes its own.
 *
 * In pairs, a cluster of two CTAs has two row tiles over the same keys, and these come from the L2 once for both.
 *
 * Probabilities are taken relative to a reference, which follows a row's maximum only when that has grown by more than
 * 2^SLACK. References go from tile to tile, from owner to owner; each tile's is published with its probabilities.
 *
 * Warpgroup 2 feeds them: warp 0 walks the schedule and starts the copies of keys, the other warps load q.
 */

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#if IS_PAIR
#define CLUSTER __cluster_dims__(2, 1, 1)
#else
#define CLUSTER
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(HOPPER_THREADS, 1)
    KERNEL_NAME(const __grid_constant__ fmlai_cuda_decode_args args, const __grid_constant__ fmlai_cuda_tensor_map map) {
  extern __shared__ __align__(1024) char shared[];
  const decode_args *a = &args;
  const uint32_t base = shared_address(shared);
  hopper_control *control = (hopper_control *)(shared + HOPPER_CONTROL_OFFSET);
  const int thread = (int)threadIdx.x % 128, lane = thread % 32;
  const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
  const int warp = __shfl_sync(0xffffffffu, thread / 32, 0);

  if (threadIdx.x == 0)
    init_barriers(control, IS_PAIR);
  if (IS_PAIR)
    pair_barrier();
  else
    __syncthreads();
  if (group < 2 || warp == 0) /* those that load q wait later */
    wait_for_turn();

  if (group == 2) {
    REGISTERS_DOWN_TO(FEED_REGISTERS);
    if (warp == 0)
      feed_keys(a, &map, control, base, lane, IS_PAIR);
    else
      feed_q(a, &control->feed, base, HOPPER_ROWS, thread - 32);
  } else {
    REGISTERS_UP_TO(MATH_REGISTERS);
    const uint32_t own = base + HOPPER_STAGE_OFFSET(group), other = base + HOPPER_STAGE_OFFSET(1 - group);
    const uint32_t q_own = k_major(base + group * HALF_BYTES), q_other = k_major(base + (1 - group) * HALF_BYTES);
    const uint32_t q_rope = k_major(base + ROPE_BOX * BOX_BYTES);
    const uint32_t k_own = k_major(own + group * HALF_BYTES), k_other = k_major(own + (1 - group) * HALF_BYTES);
    const uint32_t k_rope = k_major(own + ROPE_BOX * BOX_BYTES);
    const uint32_t v_own = mn_major(own + group * HALF_BYTES), v_other = mn_major(other + group * HALF_BYTES);
    const uint32_t p_other = k_major(base + HOPPER_P_OFFSET);
    const int row[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    const float scale_log2 = a->softmax_scale * 1.4426950408889634f;
    /* A part of a stage, to all who bring keys there. */
#if IS_PAIR
    const uint32_t to_either = address_in(lane % 2, base) - base;
#define HAND_BACK(stage, part)                                                                                \
  pair_barrier_arrive_if(lane < 2, shared_address(&control->empty[stage][part]) + to_either)
#else
#define HAND_BACK(stage, part) barrier_arrive_if(lane == 0, shared_address(&control->empty[stage][part]))
#endif
    uint32_t own_uses = 0, other_uses = 0; /* of the stages, in the pieces before */
    float s[32], o[128];
#pragma unroll
    for (int i = 0; i < 32; i++)
      s[i] = 0;

    for (uint32_t number = 0, q_number = 0;; number++) {
      barrier_wait(shared_address(&control->feed.piece_full[number % 2]), number / 2 % 2);
      const piece *part = &control->feed.pieces[number % 2];
      if (part->batch < 0)
        break;
      const piece_rows rows = rows_of_piece(a, part, HOPPER_ROWS);
      const int32_t key_begin = part->block_begin * BLOCK_KEYS;
      const int32_t key_end = min(part->block_end * BLOCK_KEYS, part->seq.seqlen_k);
      const int32_t num_tiles = (key_end - key_begin + BLOCK_KEYS - 1) / BLOCK_KEYS;
      int32_t visible_end[2] = {key_end, key_end};
      if (a->flags & FLAG_CAUSAL)
#pragma unroll
        for (int i = 0; i < 2; i++)
          visible_end[i] = min(key_end, part->seq.seqlen_k - part->seq.seqlen_q +
                                            (rows.first + row[i]) / a->group_heads + 1);

      float reference[2] = {-INFINITY, -INFINITY}; /* of o, in base 2 */
      float sum[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < 128; i++)
        o[i] = 0;

      /* The other warpgroup's tile `tile`, once its probabilities are there: to the same reference, then o += P V. The
         four warps branch together: the compiler may put a product behind each way, and all of a warpgroup must execute
         the same one. */
#define AWAIT_OTHER(tile)                                                                                     \
  barrier_wait(shared_address(&control->ready[1 - group]), (other_uses + (tile) / 2) % 2);                    \
  if (control->moved[1 - group] != 0)                                                                         \
    follow_reference(o, sum, reference, control->reference[1 - group][row[0]],                                \
                     control->reference[1 - group][row[1]])
#define ADD_OTHER()                                                                                           \
  do {                                                                                                        \
    products_fence();                                                                                         \
    _Pragma("unroll") for (int k = 0; k < 4; k++)                                                             \
        JOIN(product_64x256_, TYPE)(o, bytes_on(p_other, k * 32), bytes_on(v_other, k * 2048));               \
    products_commit();                                                                                        \
  } while (0)

      /* Of an own tile's scores what boxes of the half that is not the own add; box 4 is the RoPE columns. */
#define SCORE_OTHER_BOXES(first, end)                                                                         \
  _Pragma("unroll") for (int box = first; box < end; box++) {                                                 \
    barrier_wait(shared_address(&control->full[group][box == 4 ? ROPE_BOX : (1 - group) * 4 + box]), parity);        \
    products_fence();                                                                                         \
    _Pragma("unroll") for (int k = 0; k < 4; k++)                                                             \
        JOIN(product_64x64_, TYPE)(s, bytes_on(box == 4 ? q_rope : q_other, box % 4 * BOX_BYTES + k * 32),    \
                                   bytes_on(box == 4 ? k_rope : k_other, box % 4 * BOX_BYTES + k * 32), 1);   \
    products_commit();                                                                                        \
  }

      if (num_tiles > 0)
        barrier_wait(shared_address(&control->feed.q_full), q_number % 2);
      for (int32_t tile = group; tile < num_tiles; tile += 2) {
        const uint32_t parity = (own_uses + tile / 2) % 2;
#pragma unroll
        for (int box = 0; box < 4; box++) {
          barrier_wait(shared_address(&control->full[group][group * 4 + box]), parity);
          products_fence();
#pragma unroll
          for (int k = 0; k < 4; k++)
            JOIN(product_64x64_, TYPE)(s, bytes_on(q_own, box * BOX_BYTES + k * 32),
                                       bytes_on(k_own, box * BOX_BYTES + k * 32), box + k > 0);
          products_commit();
        }
        SCORE_OTHER_BOXES(4, 5)
        /* What this tile still lacks can be on its way only when the memory of the one before is handed back: so that one's
           output is added in the middle of the scores. */
        PRODUCTS_WAIT(0); /* none is under way where the four warps may branch */
        settle_32(s);
        HAND_BACK(group, ROPE_PART);
        /* Each way waits for its own products: where ways meet with products under way, CUDA 12.3 has all wait for one
           another. */
        if (tile > 0) {
          AWAIT_OTHER(tile - 1);
          ADD_OTHER();
          SCORE_OTHER_BOXES(0, 1)
          PRODUCTS_WAIT(1); /* the other's tile is added */
          HAND_BACK(1 - group, OTHER_HALF);
          SCORE_OTHER_BOXES(1, 4)
          PRODUCTS_WAIT(0);
          settle_32(s);
          settle_128(o);
        } else {
          SCORE_OTHER_BOXES(0, 4)
          PRODUCTS_WAIT(0);
          settle_32(s);
        }

        /* Probabilities. */
        const int32_t first_key = key_begin + tile * BLOCK_KEYS;
        if (first_key + BLOCK_KEYS > min(visible_end[0], visible_end[1]))
#pragma unroll
          for (int i = 0; i < 32; i++)
            if (first_key + i / 4 * 8 + lane % 4 * 2 + i % 2 >= visible_end[i / 2 % 2])
              s[i] = -INFINITY;
        float largest[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          largest[i] = fmaxf(s[2 * i], s[2 * i + 1]);
#pragma unroll
          for (int j = 1; j < 8; j++)
            largest[i] = fmaxf(largest[i], fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
          largest[i] *= scale_log2;
        }
        const bool moved = any_of_warpgroup(1 + group, largest[0] > reference[0] + SLACK || largest[1] > reference[1] + SLACK);
        if (moved) {
          float next[2];
#pragma unroll
          for (int i = 0; i < 2; i++) {
            largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], 1));
            largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], 2));
            next[i] = largest[i] > reference[i] + SLACK ? largest[i] : reference[i];
          }
          follow_reference(o, sum, reference, next[0], next[1]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const float from = reference[i] == -INFINITY ? 0 : reference[i];
#pragma unroll
          for (int j = 0; j < 8; j++) {
            s[4 * j + 2 * i] = exp2_approx(fmaf(s[4 * j + 2 * i], scale_log2, -from));
            s[4 * j + 2 * i + 1] = exp2_approx(fmaf(s[4 * j + 2 * i + 1], scale_log2, -from));
            sum[i] += s[4 * j + 2 * i] + s[4 * j + 2 * i + 1];
          }
        }
        uint32_t p[16];
#pragma unroll
        for (int i = 0; i < 16; i++)
          p[i] = PACK(s[2 * i], s[2 * i + 1]);

        /* The piece's last use of q here. */
        barrier_arrive_if(tile + 2 >= num_tiles && lane == 0, shared_address(&control->feed.q_empty));
        if (first_key + BLOCK_KEYS > key_end)
          clear_tail(own + group * HALF_BYTES, key_end - first_key, thread, group);
        products_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
          JOIN(product_64x256_registers_, TYPE)(o, &p[4 * k], bytes_on(v_own, k * 2048));
        products_commit();
        /* The other warpgroup gets them behind these products, which hand back memory that is waited for longer. Both only
           read p.
           p[4k .. 4k + 3]: keys 16k .. 16k + 15; the matrices are rows 0-7 and 8-15 of the first 8 keys, then of the last. */
        const int p_row = warp * 16 + lane % 16;
#pragma unroll
        for (int k = 0; k < 4; k++)
          stmatrix_x4(base + HOPPER_P_OFFSET + p_row * 128 + (((k * 2 + lane / 16) ^ (p_row % 8)) * 16), &p[4 * k]);
        store_shared_if(thread == 0, shared_address(&control->moved[group]), moved ? 1.0f : 0.0f);
        store_shared_if(lane % 4 == 0, shared_address(&control->reference[group][row[0]]), reference[0]);
        store_shared_if(lane % 4 == 0, shared_address(&control->reference[group][row[1]]), reference[1]);
        fence_for_async();
        __syncwarp();
        barrier_arrive_if(lane == 0, shared_address(&control->ready[group]));
        PRODUCTS_WAIT(0);
        settle_128(o);
        HAND_BACK(group, OWN_HALF);
      }

      if (num_tiles > 0) {
        const int32_t last = num_tiles - 1;
        if (last == 0 && group == 1 && lane == 0) /* no tile here */
          barrier_arrive(shared_address(&control->feed.q_empty));
        if (last % 2 != group) {
          AWAIT_OTHER(last);
          const int32_t last_key = key_begin + last * BLOCK_KEYS;
          if (last_key + BLOCK_KEYS > key_end)
            clear_tail(other + group * HALF_BYTES, key_end - last_key, thread, group);
          ADD_OTHER();
          PRODUCTS_WAIT(0);
          settle_128(o);
          HAND_BACK(1 - group, OTHER_HALF);
        }
        q_number++;
      }
      own_uses += (uint32_t)max(num_tiles + 1 - group, 0) / 2;
      other_uses += (uint32_t)max(num_tiles + group, 0) / 2;
#undef SCORE_OTHER_BOXES
#undef AWAIT_OTHER
#undef ADD_OTHER

#pragma unroll
      for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        if (lane % 4 == 0)
          control->sums[number % 2][group][row[i]] = sum[i];
      }
      named_barrier(BOTH_GROUPS, 256);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const bool exists = row[i] < rows.count;
        const int r = exists ? row[i] : 0; /* neighbours go on together */
        const float total = control->sums[number % 2][0][r] + control->sums[number % 2][1][r];
        const float f = end_row(a, part, &rows, r, HOPPER_ROWS, reference[i], total,
                                exists && group == 0 && lane % 4 == 0);
        int32_t dtype;
        char *out = (char *)row_target(a, part, &rows, r, HOPPER_ROWS, &dtype);
        store_columns(exists, out + group * 256 * (dtype == DTYPE_FP32 ? 4 : 2), dtype, o + 2 * i, f, lane);
      }
      __syncwarp();
      if (lane == 0)
        barrier_arrive(shared_address(&control->feed.piece_empty[number % 2]));
    }
  }
  if (IS_PAIR)
    pair_barrier(); /* until then the other hands back memory here */
}

#undef HAND_BACK
#undef CLUSTER
#undef JOIN
#undef JOIN_
#undef KERNEL_NAME
#undef IS_PAIR
#undef TYPE
#undef PACK
