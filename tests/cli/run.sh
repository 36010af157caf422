#!/usr/bin/env bash
# Runs the cases of the program: each is a script in cases/ whose output must be what NAME.expected says.
#
# usage: run.sh FLASHMLA ROOT [CASE...]     UPDATE=1 writes the expected files instead
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd) || exit 4
FLASHMLA=$(realpath "$1") || exit 4
root=$(realpath "$2") || exit 4
shift 2
export FLASHMLA LC_ALL=C
if ! [ -x "$FLASHMLA" ]; then
  echo "$FLASHMLA is not a program"
  exit 4
fi

if [ $# -eq 0 ]; then
  for script in "$here"/cases/*.sh; do
    set -- "$@" "$(basename "$script" .sh)"
  done
fi

passed=0
failed=0
for name in "$@"; do
  place=$(mktemp -d) || exit 4
  ln -s "$root/tests/snapshots" "$place/snapshots"
  got=$(cd "$place" && bash -c '. "$1" && . "$2"' case "$here/lib.sh" "$here/cases/$name.sh" 2>&1)
  rm -rf "$place"
  if [ -n "${UPDATE:-}" ]; then
    printf '%s\n' "$got" >"$here/cases/$name.expected"
  fi
  if difference=$(diff -u --label expected --label got "$here/cases/$name.expected" - <<<"$got"); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf 'FAILED: %s\n%s\n' "$name" "$difference"
  fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
