/*
 * The body of the Hopper decode kernel for few query rows, for head_dim_k 576 and head_dim_v 512: tiles of 64 keys
 * against 16 or 32 rows. The including file defines, and this file undefines: KERNEL_NAME, ROWS, NUM_BOXES (of the
 * ring), TYPE (bf16 or f16, as in PTX), PACK.
 *
 * Keys, and then columns of V, are the 64 rows of a product, query rows its columns: S^T = K Q^T, O^T += V^T P^T. So
 * one warpgroup holds all of its keys' output. Warpgroups 0 and 1 take a piece's tiles in turns, the first always
 * warpgroup 0, and know nothing of each other until the end of the piece. There each hands one half of its output to
 * the other, through q's memory, and writes the half that it keeps: warpgroup 0 columns 0 .. 255. To that end
 * warpgroup 1 counts V's boxes from the middle on.
 *
 * Probabilities are taken relative to a reference, which follows a row's maximum only when that has grown by more than
 * 2^SLACK.
 *
 * Warpgroup 2 feeds them: warp 0 walks the schedule and starts the copies of keys, the other warps load q. Keys come
 * in boxes of 64 columns, each of which is handed back by itself.
 */

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#if ROWS == 16
#define PRODUCT JOIN(product_64x16_, TYPE)
#define PRODUCT_TRANSPOSED JOIN(product_64x16_transposed_, TYPE)
#define SETTLE settle_8
#else
#define PRODUCT JOIN(product_64x32_, TYPE)
#define PRODUCT_TRANSPOSED JOIN(product_64x32_transposed_, TYPE)
#define SETTLE settle_16
#endif

extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1)
    KERNEL_NAME(const __grid_constant__ fmlai_cuda_decode_args args,
                const __grid_constant__ fmlai_cuda_tensor_map map) {
  extern __shared__ __align__(1024) char shared[];
  const decode_args *a = &args;
  const uint32_t q = shared_address(shared), ring = q + HOPPER_FEW_RING_OFFSET(ROWS);
  few_control *control = (few_control *)(shared + HOPPER_FEW_CONTROL_OFFSET(ROWS, NUM_BOXES));
  const int thread = (int)threadIdx.x % 128, lane = thread % 32;
  const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
  const int warp = __shfl_sync(0xffffffffu, thread / 32, 0);

  /* The loaders make the barriers ready; the feeder begins its walk meanwhile, and meets them later. */
  const bool is_feeder = group == 2 && warp == 0;
  if (!is_feeder) {
    if (group == 2) {
      if (lane == 0)
        init_barriers(control, NUM_BOXES, warp - 1, LOADERS / 32);
      __syncwarp();
      named_barrier_arrive(FEEDER, LOADERS + 32);
    }
    named_barrier(BUT_FEEDER, HOPPER_THREADS - 32); /* at one place for all: synccheck wants it so */
  }
  if (group < 2 || is_feeder) /* those that load q wait later */
    wait_for_turn();
  if (group == 2) {
    REGISTERS_DOWN_TO(72);
    if (is_feeder)
      feed_boxes(a, &map, control, ring, NUM_BOXES, lane);
    else
      feed_q(a, &control->feed, q, ROWS, thread - 32);
  } else {
    REGISTERS_UP_TO(216);
    enum { BLOCKS = ROWS / 8, HEADS = 2 * BLOCKS }; /* of eight rows; of rows that a thread has to do with */
    const uint32_t p_memory = q + HOPPER_FEW_P_OFFSET(ROWS) + group * ROWS * 128;
    /* Where this lane's rows of matrices of probabilities go, of 16 query rows; the others are 2048 bytes on. */
    const int p_row = lane / 16 * 8 + lane % 8;
    const uint32_t p_to = p_memory + p_row * 128 + (((warp * 2 + lane / 8 % 2) ^ (lane % 8)) * 16);
    const int first_row = lane % 4 * 2; /* of the thread's: this one and the next, of each eight */
    const int own_key = warp * 16 + lane / 4; /* in a tile; and the eighth after it */
    const float scale_log2 = a->softmax_scale * 1.4426950408889634f;
    ring_place tile_place = {0, 0};
    uint32_t tiles_before = 0; /* of the pieces before */
    float s[4 * BLOCKS];
#pragma unroll
    for (int i = 0; i < 4 * BLOCKS; i++)
      s[i] = 0;

    for (uint32_t number = 0, q_number = 0;; number++) {
      barrier_wait(shared_address(&control->feed.piece_full[number % 2]), number / 2 % 2);
      const piece *part = &control->feed.pieces[number % 2];
      if (part->batch < 0)
        break;
      const piece_rows rows = rows_of_piece(a, part, ROWS);
      const int32_t key_begin = part->block_begin * BLOCK_KEYS;
      const int32_t key_end = min(part->block_end * BLOCK_KEYS, part->seq.seqlen_k);
      const int32_t num_tiles = (key_end - key_begin + BLOCK_KEYS - 1) / BLOCK_KEYS;
      /* Of the keys that a row sees; the first row sees the fewest. */
      int32_t visible_end[HEADS], least_visible = key_end;
#pragma unroll
      for (int i = 0; i < HEADS; i++)
        visible_end[i] = key_end;
      if (a->flags & FLAG_CAUSAL) {
        const int32_t first_end = part->seq.seqlen_k - part->seq.seqlen_q + 1;
        least_visible = min(key_end, first_end + quotient(rows.first, a->group_heads));
#pragma unroll
        for (int i = 0; i < HEADS; i++)
          visible_end[i] =
              min(key_end, first_end + quotient(rows.first + i / 2 * 8 + first_row + i % 2, a->group_heads));
      }

      float reference[HEADS], sum[HEADS]; /* in base 2; of this thread's keys alone */
#pragma unroll
      for (int i = 0; i < HEADS; i++) {
        reference[i] = -INFINITY;
        sum[i] = 0;
      }
      float o[VALUE_BOXES][4 * BLOCKS]; /* warpgroup 1: of boxes 4 .. 7, 0 .. 3 */
#pragma unroll
      for (int box = 0; box < VALUE_BOXES; box++)
#pragma unroll
        for (int i = 0; i < 4 * BLOCKS; i++)
          o[box][i] = 0;

      if (num_tiles > 0)
        barrier_wait(shared_address(&control->feed.q_full), q_number % 2);
      for (int32_t tile = 0; tile < num_tiles;
           tile++, tile_place = boxes_on(tile_place, KEY_BOXES, NUM_BOXES)) {
        if (tile % 2 != group)
          continue;

        /* Scores. Places of the ring may have held the other warpgroup's tile before: while its copies are still on
           their way, a wait for this round would be over at once, as parities go. When this tile is started, they are
           not: its first box took the place of one that was handed back after them. */
        const uint32_t started = tiles_before + (uint32_t)tile;
        barrier_wait(shared_address(&control->started[started % 4]), started / 4 % 2);
        ring_place place = tile_place;
        int32_t last_box = 0;
#pragma unroll 1
        for (int box = 0; box < KEY_BOXES; box++) {
          barrier_wait(shared_address(&control->full[place.box]), place.parity);
          const uint32_t k_box = k_major(ring + place.box * BOX_BYTES), q_box = k_major(q + box * (ROWS * 128));
          products_fence();
#pragma unroll
          for (int k = 0; k < 4; k++)
            PRODUCT(s, bytes_on(k_box, k * 32), bytes_on(q_box, k * 32), box + k > 0);
          products_commit();
          last_box = place.box;
          place = boxes_on(place, 1, NUM_BOXES);
        }
        PRODUCTS_WAIT(0);
        SETTLE(s);
        barrier_arrive_if(lane == 0, shared_address(&control->empty[last_box])); /* RoPE is no part of V */

        /* Probabilities. s[4j + 2i ..]: key own_key + 8i, query rows 8j + first_row and the next. */
        const int32_t first_key = key_begin + tile * BLOCK_KEYS;
#pragma unroll
        for (int i = 0; i < 4 * BLOCKS; i++)
          s[i] *= scale_log2;
        if (first_key + BLOCK_KEYS > least_visible)
#pragma unroll
          for (int i = 0; i < 4 * BLOCKS; i++)
            if (first_key + own_key + i / 2 % 2 * 8 >= visible_end[i / 4 * 2 + i % 2])
              s[i] = -INFINITY;
        float largest[HEADS];
        bool has_grown = false;
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
          largest[i] = fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + 2 + i % 2]);
          has_grown |= largest[i] > reference[i] + SLACK;
        }
        /* Also: all warps' products of the tile before are done with p_memory. */
        if (any_of_warpgroup(1 + group, has_grown)) {
#pragma unroll
          for (int i = 0; i < HEADS; i++) {
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2)
              largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], offset));
            if (lane < 4)
              control->largest[group][warp][i / 2 * 8 + first_row + i % 2] = largest[i];
          }
          named_barrier(1 + group, 128);
          float factor[HEADS];
#pragma unroll
          for (int i = 0; i < HEADS; i++) {
            const float *of_warps = &control->largest[group][0][i / 2 * 8 + first_row + i % 2];
            const float of_tile = fmaxf(fmaxf(of_warps[0], of_warps[HOPPER_FEW_MAX_ROWS]),
                                        fmaxf(of_warps[2 * HOPPER_FEW_MAX_ROWS], of_warps[3 * HOPPER_FEW_MAX_ROWS]));
            const float next = of_tile > reference[i] + SLACK ? of_tile : reference[i];
            factor[i] = growth(reference[i], next);
            reference[i] = next;
            sum[i] *= factor[i];
          }
          if (tile >= 2) /* else o is 0 */
#pragma unroll
            for (int box = 0; box < VALUE_BOXES; box++)
#pragma unroll
              for (int i = 0; i < 4 * BLOCKS; i++)
                o[box][i] *= factor[i / 4 * 2 + i % 2];
        }
#pragma unroll
        for (int i = 0; i < 4 * BLOCKS; i++) {
          const int head = i / 4 * 2 + i % 2;
          s[i] = exp2_approx(s[i] - (reference[head] == -INFINITY ? 0 : reference[head]));
          sum[head] += s[i];
        }
        uint32_t p[2 * BLOCKS];
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++)
          p[i] = PACK(s[2 * i], s[2 * i + 1]);
        /* Matrices: keys 0-7 and 8-15 of the warp's, with query rows 0-7, then with the next eight. */
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
          stmatrix_x4_trans(p_to + i * 2048, &p[4 * i]);

        /* Zeros for what lies behind the last key: 0 times NaN is NaN. */
        if (first_key + BLOCK_KEYS > key_end) {
          const int32_t end = key_end - first_key;
#pragma unroll 1
          for (int box = 0; box < VALUE_BOXES; box++)
#pragma unroll 1
            for (int i = thread; i < (BLOCK_KEYS - end) * 8; i += 128)
              store_zeros_128(ring + boxes_on(tile_place, box, NUM_BOXES).box * BOX_BYTES + end * 128 + i * 16);
        }
        fence_for_async();
        named_barrier(1 + group, 128);

        /* Output. */
        int32_t boxes[VALUE_BOXES];
#pragma unroll
        for (int i = 0; i < VALUE_BOXES; i++)
          boxes[i] = boxes_on(tile_place, i ^ group * HALF_BOXES, NUM_BOXES).box;
        products_fence();
#pragma unroll
        for (int i = 0; i < VALUE_BOXES; i++) {
#pragma unroll
          for (int k = 0; k < 4; k++)
            PRODUCT_TRANSPOSED(o[i], bytes_on(mn_major(ring + boxes[i] * BOX_BYTES), k * 2048),
                               bytes_on(k_major(p_memory), k * 32), 1);
          products_commit();
        }
#define HAND_BACK(i)                                                                                                   \
  PRODUCTS_WAIT(VALUE_BOXES - 1 - (i));                                                                                \
  barrier_arrive_if(lane == 0, shared_address(&control->empty[boxes[i]]))
        HAND_BACK(0);
        HAND_BACK(1);
        HAND_BACK(2);
        HAND_BACK(3);
        HAND_BACK(4);
        HAND_BACK(5);
        HAND_BACK(6);
        HAND_BACK(7);
#undef HAND_BACK
#pragma unroll
        for (int i = 0; i < VALUE_BOXES; i++)
          SETTLE(o[i]);
      }

      tiles_before += (uint32_t)max(num_tiles, 0);

      /* Both warpgroups' sums and references; then, behind the barrier, nobody reads q any more. */
#pragma unroll
      for (int i = 0; i < HEADS; i++) {
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], offset);
        if (lane < 4) {
          control->sums[group][warp][i / 2 * 8 + first_row + i % 2] = sum[i];
          control->references[group][i / 2 * 8 + first_row + i % 2] = reference[i]; /* all warps have the same */
        }
      }
      named_barrier(BOTH_GROUPS, 256);
      if (group == 0 && thread < ROWS)
        end_few_row(a, part, &rows, thread, ROWS, control);
      __syncwarp(); /* barriers take whole warps */
      /* Warpgroup 1 gives; 0 takes, and gives in the same place; 1 takes. */
      const uint32_t given = q + thread * 16;
#pragma unroll 1
      for (int step = 0; step < 3; step++) {
        if (num_tiles > 0 && step == 1 + group) {
          float own_factor[HEADS], other_factor[HEADS];
#pragma unroll
          for (int i = 0; i < HEADS; i++) {
            own_factor[i] = control->factors[group][i / 2 * 8 + first_row + i % 2];
            other_factor[i] = control->factors[1 - group][i / 2 * 8 + first_row + i % 2];
          }
#pragma unroll
          for (int i = 0; i < HALF_BOXES * BLOCKS; i++) {
            const float4 taken = load_shared_128(given + i * 2048);
            float *own = &o[i / BLOCKS][i % BLOCKS * 4];
            const int head = i % BLOCKS * 2;
            own[0] = own[0] * own_factor[head] + taken.x * other_factor[head];
            own[1] = own[1] * own_factor[head + 1] + taken.y * other_factor[head + 1];
            own[2] = own[2] * own_factor[head] + taken.z * other_factor[head];
            own[3] = own[3] * own_factor[head + 1] + taken.w * other_factor[head + 1];
          }
        }
        if (num_tiles > 0 && step == 1 - group)
#pragma unroll
          for (int i = 0; i < HALF_BOXES * BLOCKS; i++)
            store_shared_128(given + i * 2048, &o[HALF_BOXES + i / BLOCKS][i % BLOCKS * 4]);
        if (step < 2)
          named_barrier(BOTH_GROUPS, 256);
      }
      __syncwarp();
      if (num_tiles > 0) {
        if (lane == 0)
          barrier_arrive(shared_address(&control->feed.q_empty));
        q_number++;
      }

      /* A warp has 16 columns of each box: eight lanes lie side by side in one, and then in the next eight. */
      const int column = group * 256 + warp * 16;
      if (part->slot >= 0 || a->out_dtype == DTYPE_FP32) {
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
          float *to = (float *)control->targets[i / 2 * 8 + first_row + i % 2] + column + lane / 4;
          if (control->targets[i / 2 * 8 + first_row + i % 2])
#pragma unroll
            for (int j = 0; j < 2 * HALF_BOXES; j++)
              to[j / 2 * 64 + j % 2 * 8] = o[j / 2][i / 2 * 4 + j % 2 * 2 + i % 2];
        }
      } else {
        /* Neighbours of two columns exchange one of their two rows, so that each has both columns of one. */
        const bool is_odd = lane / 4 % 2 != 0;
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
          uint16_t *to = (uint16_t *)control->targets[i * 8 + first_row + is_odd];
#pragma unroll
          for (int j = 0; j < 2 * HALF_BOXES; j++) {
            const float x = o[j / 2][i * 4 + j % 2 * 2], y = o[j / 2][i * 4 + j % 2 * 2 + 1];
            const float other = __shfl_xor_sync(0xffffffffu, is_odd ? x : y, 4);
            const float low = is_odd ? other : x, high = is_odd ? y : other;
            if (to)
              *(uint32_t *)(to + column + lane / 8 * 2 + j / 2 * 64 + j % 2 * 8) =
                  a->out_dtype == DTYPE_BF16 ? pack_bf16(low, high) : pack_fp16(low, high);
          }
        }
      }
      __syncwarp();
      if (lane == 0)
        barrier_arrive(shared_address(&control->feed.piece_empty[number % 2]));
    }
  }
}

#undef JOIN
#undef JOIN_
#undef PRODUCT
#undef PRODUCT_TRANSPOSED
#undef SETTLE
#undef KERNEL_NAME
#undef ROWS
#undef NUM_BOXES
#undef TYPE
#undef PACK
