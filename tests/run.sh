#!/usr/bin/env bash
# The whole suite: a plain build with every test, the Python package, then the C code under
# AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer. The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 4

# The same on every machine: the GPUs' code meets a fake driver here, and real ones in
# `flashmla check --device cuda:0`.
export FMLA_CUDA_DRIVER=none

jobs=$(nproc)
passed=0
failed=0

# suite NAME SANITIZERS CUDA [ctest options]
suite() {
  local name=$1 sanitizers=$2 cuda=$3 log=build-$1/suite.log summary ok bad
  shift 3
  echo "== $name =="
  if ! { cmake -S . -B "build-$name" -G Ninja -Wno-dev -DFLASHMLA_BUILD_TESTS=ON -DFLASHMLA_WERROR=ON \
    -DFLASHMLA_SANITIZE="$sanitizers" -DFLASHMLA_CUDA="$cuda" >/dev/null && cmake --build "build-$name" --parallel "$jobs" >"$log" 2>&1; }; then
    tail -40 "$log"
    echo "$name: the build failed"
    failed=$((failed + 1))
    return
  fi
  ctest --test-dir "build-$name" --parallel "$jobs" --output-on-failure --no-tests=error "$@" | tee "$log"
  summary=$(grep -E 'tests passed, [0-9]+ tests? failed out of [0-9]+' "$log")
  bad=$(sed -E 's/.*, ([0-9]+) tests? failed.*/\1/' <<<"${summary:-, 1 test failed}")
  ok=$(sed -E 's/.*out of ([0-9]+).*/\1/' <<<"${summary:-out of 1}")
  passed=$((passed + ok - bad))
  failed=$((failed + bad))
}

# counted WORD TEXT: the number before the word, or 0
counted() {
  local text
  text=$(grep -oE "[0-9]+ $1" <<<"$2") || text=0
  echo "${text%% *}"
}

python_suite() {
  local log=build-python/suite.log summary status bad
  echo "== python =="
  mkdir -p build-python
  CUDA_VISIBLE_DEVICES='' tests/python/run.sh -q 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  summary=$(grep -E '[0-9]+ (passed|failed|errors?).* in [0-9.]+s' "$log" | tail -1)
  bad=$(($(counted failed "$summary") + $(counted error "$summary")))
  [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1 # it did not come to the end
  passed=$((passed + $(counted passed "$summary")))
  failed=$((failed + bad))
}

suite test "" AUTO
python_suite
# Sanitizers see host code alone; the GPUs' is compiled once.
suite asan address,undefined OFF --label-exclude plain
suite tsan thread OFF --label-exclude 'plain|single-threaded'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
