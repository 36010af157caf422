#!/usr/bin/env bash
# Is the judge awake? Puts one fault at a time into a copy of the library and demands that `flashmla check` finds
# it. Prints a line for each mutant; the last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 4

copy=$(mktemp -d) || exit 4
trap 'rm -rf "$copy"' EXIT
cp -r CMakeLists.txt include src probe verify cli cmake docs "$copy" || exit 4
passed=0
failed=0

build() {
  cmake --build "$copy/build" >"$copy/build.log" 2>&1
}

# Sets `code` and `last`, the last line of the output.
check() {
  "$copy/build/flashmla" check --cases 10 >"$copy/check.log" 2>&1
  code=$?
  last=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$copy/check.log")
}

# pass NAME [HOW], fail NAME WHY
pass() {
  passed=$((passed + 1))
  printf '%-50s ok%s\n' "$1" "${2:-}"
}
fail() {
  failed=$((failed + 1))
  printf '%-50s FAILED: %s\n' "$1" "$2"
}

# mutant NAME FILE SED-EXPRESSION: the expression must change one line of the file, whatever else stands there.
mutant() {
  local file=$copy/src/$2
  sed "$3" "src/$2" >"$file"
  if [ "$(diff "src/$2" "$file" | grep -c '^>')" -ne 1 ]; then
    fail "$1" "the expression does not change exactly one line of src/$2"
  elif ! build; then
    tail -5 "$copy/build.log"
    fail "$1" "it does not compile"
  else
    check
    case "$code:$last" in
    1:*' passed, 0 failed') fail "$1" "no case failed" ;;
    1:*' failed') pass "$1" ": ${last#*, }" ;;
    *) fail "$1" "it survived; exit code $code, '$last'" ;;
    esac
  fi
  cp "src/$2" "$file"
}

# Where the library fails as it is, a mutant's failure would say nothing.
if ! { cmake -S "$copy" -B "$copy/build" -G Ninja -Wno-dev -DFLASHMLA_BUILD_TESTS=OFF >"$copy/build.log" 2>&1 && build; }; then
  tail -20 "$copy/build.log"
  fail "the library as it is" "it does not compile"
elif check && [ "$code" -eq 0 ]; then
  pass "the library as it is"
else
  grep FAILED "$copy/check.log" | head -5
  fail "the library as it is" "exit code $code, '$last'"
fi
if [ "$failed" -gt 0 ]; then
  echo "$passed passed, $failed failed"
  exit 1
fi

# ---- The kernel
kernel=cpu/kernel_portable.c
mutant "the last token of a full tile is dropped" $kernel \
  's/visible < count ? (int32_t)visible : count)/visible < count ? (int32_t)visible : count - (count == TILE_KEYS))/'
mutant "the scale of a tile's last keys is 0.1 % off" $kernel \
  's/scores\[t\] = s \* scale;/scores[t] = s * scale * 1.001f;/'
mutant "the RoPE part of a split q is ignored" $kernel \
  's/fmlai_load_row(to + dim_nope, .*/memset(to + dim_nope, 0, sizeof(float) * (size_t)p->head_dim_rope), (void)at_rope;/'
mutant "out is not rescaled to a new maximum" $kernel \
  's/^ *scale_row(o, factor, p->head_dim_v);/    (void)scale_row;/'
mutant "the sum is not rescaled to a new maximum" $kernel \
  's/\*row_sum \*= factor;/(void)factor;/'
mutant "slots behind the last token count with weight 0" $kernel \
  's/^  add_values(o, weights, keys, num_keys,/  for (int32_t t = num_keys; t < TILE_KEYS; t++) weights[t] = 0; add_values(o, weights, keys, TILE_KEYS,/'
mutant "out starts from what the workspace holds" $kernel \
  's/^  memset(o, 0, .*//'
mutant "a query sees one key too many" cpu/kernel.h \
  's/tile->seqlen_q + token + 1;/tile->seqlen_q + token + 1 + (token + 1 < tile->seqlen_q);/'
mutant "a query sees one key too few" cpu/kernel.h \
  's/return visible > 0 ? visible : 0;/return visible > 1 ? visible - 1 : 0;/'
mutant "heads are dealt to KV heads in turn" cpu/kernel.h \
  's/(int64_t)tile->kv_head \* group + row % group/row % group * p->num_kv_heads + tile->kv_head/'

# ---- What the vector kernels share
mutant "vectors: out is not rescaled to a new maximum" cpu/kernel_body.h \
  's/^ *rescale_rows(w, b, factor);/      (void)rescale_rows;/'
mutant "vectors: the sum is not rescaled to a new maximum" cpu/softmax.h \
  's/^ *vec_store(sum, vec_mul(vec_load(sum), factors));/    (void)0;/'
mutant "vectors: the RoPE part of a split q is ignored" cpu/rows_of_item.h \
  's/memcpy(values + dim_nope, .*/memset(values + dim_nope, (int)at_rope * 0,/'
mutant "vectors: the last line of a key is left out" cpu/kernel_body.h \
  's/for (size_t k = begin; k < words \&\& k < begin + SUM_WORDS/for (size_t k = begin; k < words - LINE_WORDS \&\& k < begin + SUM_WORDS/'
mutant "vectors: keys past the last count" cpu/key_block.c \
  's/limit = limit < 0 ? 0 : limit < block->count ? limit : block->count;/limit = limit < 0 ? 0 : limit < block->count ? limit : block->padded;/'
mutant "vectors: a causal row sees the whole block" cpu/key_block.c \
  's/limit = limit < 0 ? 0 : limit < block->count ? limit : block->count;/limit = limit < 0 ? 0 : block->count;/'

# ---- The paged cache
mutant "the first two pages are swapped" kv_cache.c \
  's/column = token \/ p->page_size;/column = token \/ p->page_size ^ (token < 2 * (int64_t)p->page_size \&\& p->cache_seqlens[batch] > p->page_size);/'
mutant "the last page is looked up one column early" kv_cache.c \
  's/column = token \/ p->page_size;/column = token \/ p->page_size - (token >= p->page_size \&\& token + p->page_size >= p->cache_seqlens[batch]);/'
mutant "offsets are cut to 32 bits" kv_cache.c \
  's/page \* p->kv_stride_page/(uint32_t)(page * p->kv_stride_page)/'

# ---- Splits and their merge
mutant "a partial is merged twice" cpu/rows.c \
  's/weight = expf(lse - largest);/weight = expf(lse - largest) * (i == 1 ? 2 : 1);/'
mutant "the last partial is skipped" cpu/rows.c \
  's/if (lse == target->empty_lse || lse == -INFINITY)/if (lse == target->empty_lse || lse == -INFINITY || (i > 0 \&\& i == parts->num_parts - 1))/'
mutant "the last split ends a token early" plan.c \
  's/found.kv_end = min64(found.kv_begin + tokens, seqlen_k);/found.kv_end = min64(found.kv_begin + tokens, seqlen_k - (found.split > 0));/'
mutant "batch-invariant mode is not" cpu/decode.c \
  's/\.batch_invariant = (p->flags & FMLA_BATCH_INVARIANT) != 0/.batch_invariant = false/'
mutant "splits depend on the number of threads" cpu/decode.c \
  's/fmlai_cpu_target_items(&l->shape, p, &costs, crew->num_processors,/fmlai_cpu_target_items(\&l->shape, p, \&costs, fmlai_pool_num_threads(crew->pool),/'

# ---- The end of a row
mutant "the sink is ignored" cpu/rows.c \
  's/return sink == NULL ? 1.0f : .*/return (void)sink, (void)lse, 1.0f;/'
mutant "the sink counts in each partial, too" cpu/decode.c \
  's/\.sink = NULL};/.sink = s->params->sink};/'
mutant "lse is to base 2" cpu/rows.c \
  's/row_max + logf(row_sum)/row_max + log2f(row_sum)/'
mutant "an empty row's lse ignores the flag" cpu/rows.c \
  's/(flags & FMLA_EMPTY_LSE_POS_INF) != 0 ? INFINITY : -INFINITY/(void)flags, -INFINITY/'
mutant "rows past the last sequence stay as they were" cpu/decode.c \
  's/^    write_unowned_rows(&s);/    (void)write_unowned_rows;/'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
