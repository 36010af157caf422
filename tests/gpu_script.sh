#!/usr/bin/env bash
# gpu.sh tells good runs from bad ones: with a program and a sanitizer that only say what they are told to.
set -euo pipefail
gpu=$(cd "$(dirname "$0")" && pwd)/gpu.sh
directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
cd "$directory"

cat >flashmla <<'EOF'
#!/bin/sh
[ "$1" = check ] || { cat info; exit; }
case "$*" in
*portable_good*) echo "7 passed, 0 failed" ;;
*portable_bad*) echo "6 passed, 1 failed"; exit 1 ;;
*nothing*) echo "0 passed, 0 failed" ;;
*crash*) kill -SEGV $$ ;;
esac
EOF
cat >sanitizer <<'EOF'
#!/bin/sh
# sanitizer --tool TOOL --error-exitcode N PROGRAM...
tool=$2
shift 4
"$@" || exit
case $tool in
synccheck) ;;
racecheck) echo "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)" ;;
*) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
EOF
chmod +x flashmla sanitizer

# expect SUMMARY KERNELS [PART]...: the last line, where the program lists these kernels; the exit status follows from it.
expect() {
  local summary=$1 said kernel code=0 expected=1
  [[ $summary != *" 0 failed" ]] || expected=0
  for kernel in $2; do echo "  $kernel: for cuda, available on this machine"; done >info
  shift 2
  said=$(COMPUTE_SANITIZER=./sanitizer "$gpu" . "$@") || code=$?
  [ "$(tail -1 <<<"$said")" = "$summary" ] && [ $code -eq $expected ] && return
  echo "gpu.sh $* ended with $code and not with '$summary': $said"
  return 1
}

expect "3 passed, 0 failed" portable_good check jit shared
expect "1 passed, 0 failed" "portable_good hopper" jit
expect "1 passed, 3 failed" "portable_good portable_bad nothing crash" check
expect "2 passed, 2 failed" portable_good sanitize
expect "2 passed, 5 failed" "portable_good hopper" sanitize # without racecheck
expect "0 passed, 1 failed" "" check
expect "0 passed, 1 failed" portable_good nonsense
MINUTES=0 expect "0 passed, 1 failed" portable_good check
