#!/usr/bin/env bash
# disabled.sh PROGRAM TEST...: with the CPU's features taken away one after the other, the kernel that is chosen is
# the one that the rest allows, it passes the check, and the tests pass.
set -uo pipefail
program=$1
shift
failed=0

# best TYPE: what the CPU, the last device, would decode that type with.
best() {
  "$program" info | sed -nE "s/^ *$1 decode, .*: ([a-z0-9]+) \\(.*/\\1/p" | tail -n 1
}

# without WORDS KERNELS-FOR-BF16 KERNELS-FOR-FP16 TEST...
without() {
  export FMLA_CPU_DISABLE=$1
  local bf16 fp16
  bf16=$(best bf16)
  fp16=$(best fp16)
  echo "without '$1': $bf16 for BF16, $fp16 for FP16"
  [[ " $2 " == *" $bf16 "* ]] || { echo "FAILED: that is not one of $2" && failed=1; }
  [[ " $3 " == *" $fp16 "* ]] || { echo "FAILED: that is not one of $3" && failed=1; }
  shift 3
  "$program" check --device cpu --kernel "$bf16" --cases 10 | tail -n 1
  [ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
  for test in "$@"; do
    "$test" >/dev/null 2>&1 || { echo "FAILED: $test" && failed=1; }
  done
}

without amx "avx512bf16 avx512 avx2 portable" "avx512 avx2 portable" "$@"
without amx,avx512bf16 "avx512 avx2 portable" "avx512 avx2 portable" "$@"
without amx,avx512 "avx2 portable" "avx2 portable" "$@"
without amx,avx512,avx2 portable portable "$@"
without amx,avx portable portable "$@"
exit "$failed"
