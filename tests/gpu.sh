#!/usr/bin/env bash
# What only a GPU can show, of a build that is there: takes neither network nor compiler, and at most 9 minutes. A line for
# each run; the last line is `N passed, N failed`.
# usage: gpu.sh BUILD [PART]...
#   check     every kernel: extreme cases, 1,000 random ones, and what GPUs alone have
#   jit       the portable kernels as the driver compiles their PTX
#   shared    the portable kernels within the 99 KiB of consumer cards
#   sanitize  every kernel under compute-sanitizer's four tools, on a reduced set; racecheck for the portable ones alone
# Environment: DEVICE [cuda:0], CASES [1000], JOBS [8] (some GB of the GPU's memory each), MINUTES [9],
# LOGS [BUILD/gpu-logs], COMPUTE_SANITIZER [found].
set -uo pipefail

build=${1-}
[ -x "$build/flashmla" ] || {
  echo "usage: gpu.sh BUILD [check|jit|shared|sanitize]...; BUILD has the program flashmla" >&2
  exit 2
}
shift
[ $# -gt 0 ] || set -- check jit shared sanitize
device=${DEVICE:-cuda:0}
jobs=${JOBS:-8}
logs=${LOGS:-$build/gpu-logs}
deadline=$((${MINUTES:-9} * 60 - 10))
PATH=$PATH:/usr/local/cuda/bin
sanitizer=${COMPUTE_SANITIZER:-compute-sanitizer}

# report OUTCOME NAME: WORDS
report() {
  echo "$*" | tee -a "$logs/results"
}

# is_clean LOG TOOL: it passed, and a sanitizer's last word is that it found nothing.
is_clean() {
  grep -qE '^[1-9][0-9]* passed, 0 failed$' "$1" || return
  case $2 in
  *check) grep -E '^=+ [A-Z]+ SUMMARY' "$1" | tail -1 | grep -qE 'SUMMARY: 0 (errors|hazards)' ;;
  esac
}

# run NAME SECONDS COMMAND...: one run, for so long at most.
run() {
  local name=$1 limit=$2 begin=$SECONDS log=$logs/$1.log code=0 left=$((deadline - SECONDS))
  shift 2
  if [ "$left" -le 0 ]; then
    report FAILED "$name: no time was left"
    return
  fi
  timeout --kill-after=5 $((limit < left ? limit : left)) "$@" >"$log" 2>&1 || code=$?
  if [ $code -eq 0 ] && is_clean "$log" "${under[2]-}"; then
    report ok "$name: $(grep -E '^[0-9]+ passed' "$log") ($((SECONDS - begin)) s)"
  else
    report FAILED "$name: $([ $code -eq 124 ] && echo "the time was up" || echo "exit $code"), see $log ($((SECONDS - begin)) s)"
  fi
}

# check NAME SECONDS KERNEL OPTION...
check() {
  local name=$1 limit=$2 kernel=$3
  shift 3
  run "$name-$kernel" "$limit" "${under[@]}" "$build/flashmla" check --device "$device" --kernel "$kernel" "$@"
}

# Kernels are checked one after the other, as holding SMs takes a GPU for itself; sanitizers run side by side.
run_part() {
  local part=$1 kernel tool under=()
  case $part in
  check) for kernel in $kernels; do check check 150 "$kernel" --cases "${CASES:-1000}" --jobs "$jobs"; done ;;
  jit)
    under=(env CUDA_FORCE_PTX_JIT=1)
    for kernel in $portable; do check jit 100 "$kernel" --cases 100 --jobs "$jobs"; done
    ;;
  shared)
    under=(env FMLA_CUDA_MAX_SHARED=101376)
    for kernel in $portable; do check shared 100 "$kernel" --cases 100 --jobs "$jobs"; done
    ;;
  sanitize)
    for tool in memcheck initcheck synccheck racecheck; do
      under=("$sanitizer" --tool "$tool" --error-exitcode 9)
      for kernel in $kernels; do
        while [ "$(jobs -rp | wc -l)" -ge 12 ]; do wait -n; done
        case $tool-$kernel in
        racecheck-hopper*) continue ;; # it sees bulk copies and their barriers in part only, and does not end
        racecheck*) check "$tool" 240 "$kernel" --quick --cases 0 --jobs 1 & ;;
        *) check "$tool" 240 "$kernel" --quick --cases 4 --jobs 1 & ;;
        esac
      done
    done
    wait
    ;;
  *) report FAILED "$part: there is no such part" ;;
  esac
}

mkdir -p "$logs" || exit 4
: >"$logs/results"
"$build/flashmla" info >"$logs/info"
sed -n '/^  cuda/,/^ *fp16/p' "$logs/info"
kernels=$(sed -nE 's/^  (.*): for cuda, available on this machine$/\1/p' "$logs/info")
portable=$(grep portable <<<"$kernels")
[ -n "$kernels" ] || report FAILED "info: no kernel for GPUs can run here: $(grep GPU "$logs/info" | head -1)"
for part; do
  run_part "$part"
done

failed=$(grep -c ^FAILED "$logs/results")
[ "$failed" -eq 0 ] || echo "Failed: $(sed -n 's/^FAILED \([^:]*\):.*/\1/p' "$logs/results" | tr '\n' ' ')"
echo "$(grep -c ^ok "$logs/results") passed, $failed failed"
[ "$failed" -eq 0 ]
