/*
 * AMX: tiles of 16 x 16 sums, each step 16 x 16 products of 32 BF16 pairs. Keys come in groups of 32, and a
 * group's keys stay in the first cache while all rows of q, from the second, meet them; its values are woven
 * into right operands once for all rows. Scores have a lane for each row, as the softmax takes them; the
 * probabilities, turned round, are left operands. The values of many groups are added at once, so that o is
 * seldom read and written.
 */
#include "cpu/simd_avx512.h"

#include "cpu/words_bf16.h"

#include "cpu/softmax.h"

#include "cpu/rows_of_item.h"

#include "cpu/amx_tiles.h"
#include "cpu/features.h"
#include "cpu/fetch.h"

enum { GROUP_KEYS = 32, GROUP_PAIRS = GROUP_KEYS / KEYS_PER_STEP, MAX_BLOCK_GROUPS = 8, MAX_TILE_ROWS = 256 };
enum { TILE_BYTES = TILE_DIM * TILE_ROW_BYTES, TILE_FLOATS = TILE_DIM * TILE_DIM };

/* Columns of values that are woven and multiplied at a time: two vectors. */
enum { STRIPE_VALUES = 2 * LANES, DIM_STEP = 32 };

/* The two lane blocks whose scores are made together. */
enum { UNIT_BLOCKS = 2, UNIT_FLOATS = UNIT_BLOCKS * GROUP_KEYS * LANES };

/* A lane block's softmax takes so many steps of the next unit's scores. */
enum { JOB_STEPS = 8, JOB_KEYS = GROUP_KEYS / JOB_STEPS };

/* With so many units a group and more, the first ones' steps fetch a line of some keys each, and nothing else
   fetches: no state, so no stores among the tile loads. */
enum { LINE_UNITS = 4, LINE_KEYS = GROUP_KEYS / LINE_UNITS, LINES_AHEAD = 64 };

typedef struct unit {
  float *scores; /* [UNIT_BLOCKS][GROUP_KEYS][LANES] */
  const fmlai_key_block *group;
  int32_t lane_block, count, group_index;
  bool all_visible; /* to every row */
} unit;

/* An item at work, and what vectors have to do beside the tiles, in small portions. */
typedef struct item_work {
  work w;
  char *probabilities; /* [lane blocks][MAX_BLOCK_GROUPS] tiles */
  char *values;        /* [MAX_BLOCK_GROUPS][2] tiles: a stripe, which the next one replaces */
  float *scores;       /* of two units */
  char *staging;       /* a group's keys, where they do not lie at even distances; a lane block of q or o */

  int32_t block_groups, num_groups; /* of a block; those whose probabilities are there or begun */
  fmlai_key_block groups[MAX_BLOCK_GROUPS];
  unit last;                /* whose softmax comes next */
  bool undone[UNIT_BLOCKS]; /* its lane blocks that are not probabilities yet */
  bool by_lines;            /* how keys are fetched: LINE_UNITS, or else `fetch` */
  fmlai_key_block ahead;    /* by lines: the group that is fetched */
  int32_t fetch_rate;       /* of `fetch`, for each step of the tiles */
  fetcher fetch;
} item_work;

static char *probability_tile(const item_work *s, int32_t lane_block, int32_t group) {
  return s->probabilities + ((size_t)lane_block * MAX_BLOCK_GROUPS + (size_t)group) * TILE_BYTES;
}
static char *value_tiles(const item_work *s, int32_t group) {
  return s->values + (size_t)group * 2 * TILE_BYTES;
}
static float *o_tile(const item_work *s, int32_t lane_block, int32_t vector) {
  const int32_t vectors = s->w.p->head_dim_v / LANES;
  return s->w.o + ((size_t)lane_block * (size_t)vectors + (size_t)vector) * TILE_FLOATS;
}

/* ---- Values ----------------------------------------------------------------------------------------- */

/* A stripe of the values of a group. */
INLINE void weave_stripe(const item_work *s, int32_t stripe, int32_t group) {
  const void *const *keys = s->groups[group].keys;
  char *to = value_tiles(s, group);
  for (int32_t i = 0; i < GROUP_PAIRS; i++, keys += KEYS_PER_STEP, to += TILE_ROW_BYTES) {
    vec words[2];
    load_value_words(words, keys, stripe * STRIPE_VALUES, false);
    vec_store((float *)(void *)to, words[0]);
    vec_store((float *)(void *)(to + TILE_BYTES), words[1]);
  }
}

/* Whether no lane block behind this unit's takes the stripe, so that the next one may replace it. */
static bool ends_stripe(const item_work *s, int32_t stripe, int32_t lane_block) {
  return lane_block + UNIT_BLOCKS >= s->w.num_lane_blocks && (stripe + 1) * STRIPE_VALUES < s->w.p->head_dim_v;
}

/* Where the sums in tiles 0 to 3 come from or go: two tiles each. */
typedef struct four_sums {
  float *top, *bottom;
} four_sums;

static four_sums o_sums_of(const item_work *s, int32_t lane_block, int32_t stripe) {
  return (four_sums){o_tile(s, lane_block, 2 * stripe), o_tile(s, lane_block + 1, 2 * stripe)};
}

static void load_sums(four_sums from) {
  TILE_BARRIER();
  tile_load(0, from.top, TILE_ROW_BYTES);
  tile_load(1, from.top + TILE_FLOATS, TILE_ROW_BYTES);
  tile_load(2, from.bottom, TILE_ROW_BYTES);
  tile_load(3, from.bottom + TILE_FLOATS, TILE_ROW_BYTES);
  TILE_BARRIER();
}

static void store_sums(four_sums to) {
  TILE_BARRIER();
  tile_store(0, to.top, TILE_ROW_BYTES);
  tile_store(1, to.top + TILE_FLOATS, TILE_ROW_BYTES);
  tile_store(2, to.bottom, TILE_ROW_BYTES);
  tile_store(3, to.bottom + TILE_FLOATS, TILE_ROW_BYTES);
  TILE_BARRIER();
}

/* A group's part. A unit's first step (`from` not NULL) changes the sums, one before each product. */
INLINE void add_step(const char *p0, const char *p1, const char *values, const four_sums *to,
                     const four_sums *from) {
  tile_load_once(4, p0, TILE_ROW_BYTES);
  tile_load(6, values, TILE_ROW_BYTES);
  if (from != NULL)
    tile_exchange(0, to->top, from->top);
  tile_multiply_add(0, 4, 6);
  tile_load(7, values + TILE_BYTES, TILE_ROW_BYTES);
  if (from != NULL)
    tile_exchange(1, to->top + TILE_FLOATS, from->top + TILE_FLOATS);
  tile_multiply_add(1, 4, 7);
  tile_load_once(5, p1, TILE_ROW_BYTES);
  if (from != NULL)
    tile_exchange(2, to->bottom, from->bottom);
  tile_multiply_add(2, 5, 6);
  if (from != NULL)
    tile_exchange(3, to->bottom + TILE_FLOATS, from->bottom + TILE_FLOATS);
  tile_multiply_add(3, 5, 7);
}

/* A step's share of bringing sums into the first cache. */
INLINE void fetch_sums(const four_sums *sums, int32_t group) {
  enum { LINES = 2 * TILE_DIM / MAX_BLOCK_GROUPS };
  UNROLL for (int32_t i = group * LINES; i < (group + 1) * LINES; i++) {
    __builtin_prefetch(sums->top + (size_t)i * LANES, 0, 3);
    __builtin_prefetch(sums->bottom + (size_t)i * LANES, 0, 3);
  }
}

/* What vectors do beside it: either would wait for the second cache if both came at once. `next` are the next
   unit's sums, NULL if nothing shall fetch them. */
INLINE void beside_add(item_work *s, int32_t stripe, int32_t group, bool ends, const four_sums *next) {
  if (ends) {
    TILE_BARRIER(); /* the tiles have read what this replaces */
    weave_stripe(s, stripe + 1, group);
  } else if (next != NULL) {
    fetch_sums(next, group);
  }
  if (!s->by_lines)
    fetch(&s->fetch, s->fetch_rate);
}

/* o of two lane blocks and a stripe, over the first `groups` of the block. The tiles hold `before`'s sums, and
   then these. */
static void add_2x2(item_work *s, int32_t lane_block, int32_t stripe, int32_t groups, four_sums *before) {
  const four_sums o = o_sums_of(s, lane_block, stripe);
  const char *p0 = probability_tile(s, lane_block, 0), *p1 = probability_tile(s, lane_block + 1, 0);
  const char *values = value_tiles(s, 0);
  const bool ends = ends_stripe(s, stripe, lane_block);
  const four_sums next = o_sums_of(s, lane_block + UNIT_BLOCKS, stripe);
  const four_sums *fetched = lane_block + 2 * UNIT_BLOCKS <= s->w.num_lane_blocks ? &next : NULL;
  TILE_BARRIER();
  add_step(p0, p1, values, before, &o);
  beside_add(s, stripe, 0, ends, fetched);
  for (int32_t g = 1; g < groups; g++) {
    const size_t at = (size_t)g * TILE_BYTES;
    add_step(p0 + at, p1 + at, values + 2 * at, NULL, NULL);
    beside_add(s, stripe, g, ends, fetched);
  }
  TILE_BARRIER();
  *before = o;
}

/* o of one lane block and a stripe. */
static void add_1x2(item_work *s, int32_t lane_block, int32_t stripe, int32_t groups, bool ends) {
  float *o = o_tile(s, lane_block, 2 * stripe);
  const char *p = probability_tile(s, lane_block, 0), *values = value_tiles(s, 0);
  TILE_BARRIER();
  tile_load(0, o, TILE_ROW_BYTES);
  tile_load(1, o + TILE_FLOATS, TILE_ROW_BYTES);
  for (int32_t g = 0; g < groups; g++, values += 2 * TILE_BYTES) {
    tile_load(4, p + (size_t)g * TILE_BYTES, TILE_ROW_BYTES);
    tile_load(6, values, TILE_ROW_BYTES);
    tile_multiply_add(0, 4, 6);
    tile_load(7, values + TILE_BYTES, TILE_ROW_BYTES);
    tile_multiply_add(1, 4, 7);
    beside_add(s, stripe, g, ends, NULL);
  }
  tile_store(0, o, TILE_ROW_BYTES);
  tile_store(1, o + TILE_FLOATS, TILE_ROW_BYTES);
  TILE_BARRIER();
}

static void weave_whole_stripe(const item_work *s, int32_t stripe, int32_t groups) {
  for (int32_t g = 0; g < groups; g++)
    weave_stripe(s, stripe, g);
}

static void add_values(item_work *s) {
  const int32_t stripes = s->w.p->head_dim_v / STRIPE_VALUES, blocks = s->w.num_lane_blocks;
  const int32_t paired = blocks - blocks % UNIT_BLOCKS;
  four_sums o = o_sums_of(s, 0, 0);
  weave_whole_stripe(s, 0, s->num_groups);
  if (paired > 0)
    load_sums(o);
  for (int32_t i = 0; i < stripes; i++) {
    for (int32_t b = 0; b < paired; b += UNIT_BLOCKS)
      add_2x2(s, b, i, s->num_groups, &o);
    if (paired == blocks)
      continue;
    if (paired > 0)
      store_sums(o);
    add_1x2(s, paired, i, s->num_groups, ends_stripe(s, i, paired));
    if (paired > 0)
      load_sums(o);
  }
  if (paired > 0)
    store_sums(o);
  s->num_groups = 0;
}

/* ---- Beside the tiles: the softmax ------------------------------------------------------------------ */

/* A unit's lane block has larger scores than its references allow: what was weighed by these is added to o,
   which then follows the new ones. */
static void move_lane_block(item_work *s, int32_t lane_block, const float *scores) {
  work *w = &s->w;
  const int32_t row = lane_block * LANES, vectors = w->p->head_dim_v / LANES;
  float factor[LANES];
  if (!move_references(scores, GROUP_KEYS, w->p->softmax_scale * LOG2E, w->reference + row, w->row_sum + row,
                       w->weight + row, factor))
    return;
  if (s->last.group_index > 0) {
    for (int32_t i = 0; i < vectors / 2; i++) {
      weave_whole_stripe(s, i, s->last.group_index);
      add_1x2(s, lane_block, i, s->last.group_index, false);
    }
    memset(probability_tile(s, lane_block, 0), 0, (size_t)s->last.group_index * TILE_BYTES);
  }
  for (int32_t i = 0; i < LANES; i++)
    if (factor[i] != 1)
      for (int32_t v = 0; v < vectors; v++) {
        float *o = o_tile(s, lane_block, v) + (size_t)i * LANES;
        vec_store(o, vec_mul(vec_load(o), vec_set(factor[i])));
      }
}

static float *unit_scores(const unit *u, int32_t i) {
  return u->scores + (size_t)i * GROUP_KEYS * LANES;
}

static void begin_softmax(item_work *s) {
  const unit *u = &s->last;
  for (int32_t i = 0; i < u->count; i++) {
    if (!u->all_visible)
      mask_lane_block(&s->w, u->group, u->lane_block + i, unit_scores(u, i));
    s->undone[i] = true;
  }
}

INLINE score_job begin_job(const item_work *s, int32_t i) {
  const work *w = &s->w;
  const int32_t lane_block = s->last.lane_block + i, row = lane_block * LANES;
  score_job job;
  keep_references(&job, unit_scores(&s->last, i),
                  (float *)(void *)probability_tile(s, lane_block, s->last.group_index), GROUP_KEYS,
                  w->p->softmax_scale * LOG2E, w->reference + row, w->row_sum + row, w->weight + row);
  return job;
}

/* Whether a score was too large for the references as they are, with which the probabilities were made. */
INLINE bool must_move(const item_work *s, int32_t i, const score_job *job) {
  const vec none = vec_set(-INFINITY);
  const vec reference = vec_load(s->w.reference + (s->last.lane_block + i) * LANES);
  return vec_any_greater(job->largest, vec_where_greater(reference, none, vec_set(SLACK), none));
}

INLINE void end_job(item_work *s, int32_t i, const score_job *job) {
  end_scores(job);
  /* From [16 key pairs][LANES], a right operand, to [LANES][16 key pairs], a left one. */
  vec_transpose(job->probabilities, job->probabilities, LANES);
  s->undone[i] = false;
}

/* All four tiles of a unit, one behind the other. */
static four_sums unit_sums(float *scores) {
  return (four_sums){scores, scores + 2 * TILE_FLOATS};
}

/* What is left of it. If references have to move, the scores that the tiles hold wait at `held`; NULL if they
   hold none. */
static void end_softmax(item_work *s, float *held) {
  for (int32_t i = 0; i < s->last.count; i++) {
    if (!s->undone[i])
      continue;
    score_job job = begin_job(s, i);
    take_scores(&job, GROUP_KEYS);
    if (must_move(s, i, &job)) {
      if (held != NULL)
        store_sums(unit_sums(held));
      move_lane_block(s, s->last.lane_block + i, job.scores);
      if (held != NULL)
        load_sums(unit_sums(held));
      job = begin_job(s, i);
      take_scores(&job, GROUP_KEYS);
    }
    end_job(s, i, &job);
  }
}

/* ---- Scores ----------------------------------------------------------------------------------------- */

/* 16 keys as a left operand: their first bytes, and the distance of one key from the other. */
typedef struct key_tile {
  const char *at;
  int64_t stride;
} key_tile;

/* Keys that lie at even distances are read there; others are copied to `staging`, [TILE_DIM][dim]. */
static key_tile find_key_tile(const void *const *keys, int32_t dim, char *staging) {
  const int64_t stride = (const char *)keys[1] - (const char *)keys[0];
  const size_t bytes = (size_t)dim * sizeof(uint16_t);
  bool even = true;
  for (int i = 2; i < TILE_DIM; i++)
    even = even && (const char *)keys[i] - (const char *)keys[i - 1] == stride;
  if (even)
    return (key_tile){.at = keys[0], .stride = stride};
  for (size_t i = 0; i < TILE_DIM; i++)
    memcpy(staging + i * bytes, keys[i], bytes);
  return (key_tile){.at = staging, .stride = (int64_t)bytes};
}

/* 32 values' part of the scores of one or two lane blocks. A unit's first step (`before` not NULL) puts the
   sums before away, one before each product. */
INLINE void score_step(const key_tile keys[2], const char *q, size_t q_bytes, size_t at, bool two,
                       float *before, bool two_before) {
  q += at * TILE_DIM;
  tile_load_once(6, q, TILE_ROW_BYTES);
  tile_load(4, keys[0].at + at, keys[0].stride);
  if (before != NULL)
    tile_store_and_zero(0, before);
  tile_multiply_add(0, 4, 6);
  tile_load(5, keys[1].at + at, keys[1].stride);
  if (before != NULL)
    tile_store_and_zero(1, before + TILE_FLOATS);
  tile_multiply_add(1, 5, 6);
  if (two)
    tile_load_once(7, q + q_bytes, TILE_ROW_BYTES);
  if (two_before)
    tile_store(2, before + 2 * TILE_FLOATS, TILE_ROW_BYTES);
  if (two && before != NULL)
    tile_zero(2);
  if (two)
    tile_multiply_add(2, 4, 7);
  if (two_before)
    tile_store(3, before + 3 * TILE_FLOATS, TILE_ROW_BYTES);
  if (two && before != NULL)
    tile_zero(3);
  if (two)
    tile_multiply_add(3, 5, 7);
}

/* Fetches a line of every LINE_UNITS-th key of the group ahead, or what `fetch` has for a step. */
INLINE void beside_score(item_work *s, const void *const *ahead, size_t at) {
  if (ahead == NULL)
    fetch(&s->fetch, s->fetch_rate);
  else
    UNROLL for (int i = 0; i < LINE_KEYS; i++)
        __builtin_prefetch((const char *)ahead[i * LINE_UNITS] + at, 0, 2);
}

/* The scores of one or two lane blocks, left in the tiles, and beside them the softmax of the unit before. */
INLINE void score_unit(item_work *s, const key_tile keys[2], int32_t lane_block, bool two, bool by_lines) {
  const size_t q_bytes = (size_t)s->w.words * LANES * sizeof(float), end = (size_t)s->w.words * sizeof(float);
  const char *q = (const char *)s->w.q + (size_t)lane_block * q_bytes;
  const void *const *ahead = by_lines ? s->ahead.keys + lane_block / UNIT_BLOCKS % LINE_UNITS : NULL;
  size_t at = TILE_ROW_BYTES;
  TILE_BARRIER();
  score_step(keys, q, q_bytes, 0, two, s->last.scores, s->last.count > 1);
  TILE_BARRIER();
  beside_score(s, ahead, 0);
  begin_softmax(s);
  for (int32_t i = 0; i < s->last.count && at + JOB_STEPS * TILE_ROW_BYTES <= end; i++) {
    score_job job = begin_job(s, i);
    for (int32_t j = 0; j < JOB_STEPS; j++, at += TILE_ROW_BYTES) {
      score_step(keys, q, q_bytes, at, two, NULL, false);
      take_scores(&job, JOB_KEYS);
      beside_score(s, ahead, at);
    }
    if (!must_move(s, i, &job))
      end_job(s, i, &job);
  }
  for (; at < end; at += TILE_ROW_BYTES) {
    score_step(keys, q, q_bytes, at, two, NULL, false);
    beside_score(s, ahead, at);
  }
  TILE_BARRIER();
}

static void score_1(item_work *s, const key_tile keys[2], int32_t lane_block) {
  score_unit(s, keys, lane_block, false, s->by_lines);
}
static void score_2(item_work *s, const key_tile keys[2], int32_t lane_block) {
  score_unit(s, keys, lane_block, true, false);
}
static void score_2_by_lines(item_work *s, const key_tile keys[2], int32_t lane_block) {
  score_unit(s, keys, lane_block, true, true);
}

/* The scores of a group. The last unit's are left in the tiles. */
static void take_group(item_work *s, const fmlai_key_block *group) {
  const size_t tile_bytes = (size_t)TILE_DIM * (size_t)s->w.p->head_dim_k * sizeof(uint16_t);
  key_tile keys[2];
  for (int32_t i = 0; i < 2; i++)
    keys[i] =
        find_key_tile(group->keys + i * TILE_DIM, s->w.p->head_dim_k, s->staging + (size_t)i * tile_bytes);
  const bool all_visible = sees_all(&s->w, group);
  s->num_groups++;
  for (int32_t b = 0; b < s->w.num_lane_blocks; b += UNIT_BLOCKS) {
    const int32_t left = s->w.num_lane_blocks - b;
    const unit u = {.scores = s->last.scores == s->scores ? s->scores + UNIT_FLOATS : s->scores,
                    .group = group,
                    .lane_block = b,
                    .count = left < UNIT_BLOCKS ? left : UNIT_BLOCKS,
                    .group_index = s->num_groups - 1,
                    .all_visible = all_visible};
    if (u.count < UNIT_BLOCKS)
      score_1(s, keys, b);
    else if (s->by_lines)
      score_2_by_lines(s, keys, b);
    else
      score_2(s, keys, b);
    end_softmax(s, u.scores);
    s->last = u;
  }
}

/* The softmax of the last unit of a block. */
static void end_scores_of_block(item_work *s) {
  store_sums(unit_sums(s->last.scores));
  begin_softmax(s);
  end_softmax(s, NULL);
  s->last.count = 0;
}

/* ---- The kernel ------------------------------------------------------------------------------------- */

static int32_t lane_blocks_of(int32_t rows) {
  return (rows + LANES - 1) / LANES;
}

static int32_t ceil_div(int32_t a, int32_t b) {
  return (a + b - 1) / b;
}

static int32_t clamp(int32_t a, int32_t least, int32_t most) {
  return a < least ? least : a > most ? most : a;
}

/* How much is done at once, and how much of it beside each step of the tiles. */
static void set_portions(item_work *s) {
  const fmla_decode_params *p = s->w.p;
  const int32_t units = ceil_div(s->w.num_lane_blocks, UNIT_BLOCKS), steps = s->w.words / TILE_DIM;
  s->block_groups = clamp(s->w.num_lane_blocks, 2, MAX_BLOCK_GROUPS);
  s->by_lines = s->w.num_lane_blocks >= LINE_UNITS * UNIT_BLOCKS;
  s->fetch_rate = ceil_div(256 * GROUP_KEYS / FETCH_STREAMS * s->fetch.lines,
                           units * (steps + p->head_dim_v / STRIPE_VALUES));
}

static size_t probability_bytes(int32_t rows) {
  return (size_t)lane_blocks_of(rows) * MAX_BLOCK_GROUPS * TILE_BYTES;
}
enum { VALUE_BYTES = MAX_BLOCK_GROUPS * 2 * TILE_BYTES };
static size_t staging_bytes(const fmla_decode_params *p) {
  const size_t keys = (size_t)GROUP_KEYS * (size_t)p->head_dim_k * sizeof(uint16_t);
  const size_t o = LANES * (size_t)p->head_dim_v * sizeof(float);
  return keys > o ? keys : o;
}

static size_t scratch_bytes(const fmla_decode_params *p, int32_t tile_rows) {
  return (q_words(tile_rows, p->head_dim_k) + 2 * UNIT_FLOATS) * sizeof(float) + probability_bytes(tile_rows) +
         VALUE_BYTES + staging_bytes(p);
}

/* o in the order of its rows and columns, in the tiles' place, and the references, which the caller takes for
 * the rows' maxima, to base e.
 */
static void end_rows(const item_work *s) {
  const work *w = &s->w;
  const size_t dim_v = (size_t)w->p->head_dim_v;
  for (int32_t b = 0; b < w->num_lane_blocks; b++) {
    const float *from = memcpy(s->staging, o_tile(s, b, 0), LANES * dim_v * sizeof(float));
    for (int32_t r = b * LANES; r < (b + 1) * LANES; r++, from += LANES) {
      w->reference[r] *= LN2;
      for (size_t v = 0; v < dim_v / LANES; v += 2) {
        vec columns[2] = {vec_load(from + v * TILE_FLOATS), vec_load(from + (v + 1) * TILE_FLOATS)};
        unweave(columns);
        vec_store(w->o + (size_t)r * dim_v + v * LANES, columns[0]);
        vec_store(w->o + (size_t)r * dim_v + (v + 1) * LANES, columns[1]);
      }
    }
  }
}

/* NOLINTBEGIN(readability-non-const-parameter): the analyzer does not see what the work's pointers are for. */
static void decode_item(const fmla_decode_params *p, const fmlai_plan_item *item, float *o, float *row_max,
                        float *row_sum, float *row_weight, void *scratch) {
  const int32_t rows = item->tile.num_rows;
  item_work s = {.w = {.p = p,
                       .item = item,
                       .num_rows = rows,
                       .num_lane_blocks = lane_blocks_of(rows),
                       .words = p->head_dim_k / VALUES_PER_WORD,
                       .o = o,
                       .reference = row_max,
                       .row_sum = row_sum,
                       .weight = row_weight,
                       .q = scratch}};
  s.scores = s.w.q + q_words(rows, p->head_dim_k);
  s.probabilities = (char *)(s.scores + 2 * UNIT_FLOATS);
  s.values = s.probabilities + probability_bytes(rows);
  s.last.scores = s.scores;
  s.staging = s.values + VALUE_BYTES;
  pack_q(&s.w, (float *)(void *)s.staging);
  const size_t room = (size_t)s.w.num_lane_blocks * LANES;
  memset(o, 0, room * (size_t)p->head_dim_v * sizeof *o);
  for (size_t r = 0; r < room; r++) {
    row_max[r] = -INFINITY;
    row_sum[r] = row_weight[r] = 0;
  }

  const int64_t end = fmlai_visible_end(p, item);
  fetch_from(&s.fetch, p, &item->tile, item->kv_begin, end);
  set_portions(&s);
  const int64_t block_keys = s.block_groups * GROUP_KEYS, ahead = 64 + block_keys / 2;
  s.fetch.begin += ahead;
  tiles_begin();
  for (int64_t block = item->kv_begin; block < end; block += block_keys) {
    s.fetch.limit = block + block_keys + ahead;
    for (int32_t g = 0; g < s.block_groups && block + g * GROUP_KEYS < end; g++) {
      const int64_t begin = block + g * GROUP_KEYS, next = begin + LINES_AHEAD;
      fmlai_find_keys(&s.groups[g], p, &item->tile, begin, end, GROUP_KEYS, GROUP_KEYS);
      if (s.by_lines)
        fmlai_find_keys(&s.ahead, p, &item->tile, next < end ? next : end - 1, end, GROUP_KEYS, GROUP_KEYS);
      take_group(&s, &s.groups[g]);
    }
    end_scores_of_block(&s);
    add_values(&s);
  }
  tiles_end();
  end_rows(&s);
}
/* NOLINTEND(readability-non-const-parameter) */

static bool serves(const fmla_decode_params *p) {
  return reads_dtype(p->q_dtype) && p->head_dim_k % DIM_STEP == 0 && p->head_dim_v % DIM_STEP == 0;
}

const fmlai_cpu_kernel fmlai_cpu_kernel_amx = {
    .name = "amx",
    .needs = "AMX-TILE and AMX-BF16, which the system grants; AVX-512F, AVX-512BW, AVX-512VL, AVX-512-BF16",
    .takes = "BF16, head dims that are multiples of 32",
#if defined(FMLAI_EMULATED_TILES)
    .features = FMLAI_CPU_FOR_AVX512 | FMLAI_CPU_AVX512BF16,
#else
    .features = FMLAI_CPU_FOR_AMX,
#endif
    .probability_dtype = FMLA_DTYPE_BF16,
    .max_tile_rows = MAX_TILE_ROWS,
    .gflops = 2000,
    .fit_rows = 3,
    .serves = serves,
    .scratch_bytes = scratch_bytes,
    .decode_item = decode_item,
    .store_row = store_row,
};
