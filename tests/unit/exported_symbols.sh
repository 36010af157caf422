#!/bin/sh
# The libraries export what the header declares and nothing else, and need nothing but the C library.
# Usage: exported_symbols.sh HEADER SHARED_LIBRARY STATIC_LIBRARY SANITIZERS
set -eu
export LC_ALL=C
header=$1 shared=$2 static=$3 sanitizers=$4
status=0
problem() {
  echo "$1" >&2
  status=1
}

directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT

# A declaration may go over several lines: join them, then take the word before the parenthesis.
tr '\n' ' ' <"$header" | grep -o 'FMLA_API [^;(]*(' | grep -o 'fmla_[a-z0-9_]*(' | tr -d '(' | sort >"$directory/declared"
[ "$(wc -l <"$directory/declared")" -ge 20 ] || problem "the header seems to declare too few functions"

# The version of the export map is a symbol of its own.
nm -D --defined-only "$shared" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$directory/exported"
diff "$directory/declared" "$directory/exported" >"$directory/difference" ||
  problem "declared (<) and exported (>) functions differ: $(cat "$directory/difference")"

# Sanitizers add symbols of their own to every object.
if [ -z "$sanitizers" ]; then
  others=$(nm -g --defined-only "$static" | awk 'NF == 3 { print $3 }' | grep -v -E '^fmlai?_' || true)
  [ -z "$others" ] || problem "global symbols of the static library without our prefixes: $others"

  # The dynamic loader is a part of the C library.
  needed=$(readelf -d "$shared" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -v -E '^(libc|libm|ld-linux.*)\.so' || true)
  [ -z "$needed" ] || problem "the shared library needs: $needed"

  loaded=$(size "$shared" | awk 'NR == 2 { print $4 }')
  file=$(wc -c <"$shared")
  stripped="$directory/stripped.so"
  strip -o "$stripped" "$shared"
  most=4194304 # most of it is code for GPUs
  [ "$(wc -c <"$stripped")" -le $most ] || problem "the shared library has more than 4 MB ($file with debug information)"
  [ "$loaded" -le $most ] || problem "the shared library loads $loaded bytes"
fi
exit $status
