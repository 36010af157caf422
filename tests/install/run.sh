#!/bin/sh
# Installs a build, moves the tree, and builds and runs a program against it in each way there is.
# Usage: run.sh BUILD_DIRECTORY GENERATOR C_COMPILER VERSION [FAKE_DRIVER]
set -eu
build=$1 generator=$2 cc=$3 version=$4 driver=${5-}
source=$(CDPATH='' cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

fail() {
  echo "install test: $1" >&2
  exit 1
}

# run NAME COMMAND...: its output is the version.
run() {
  name=$1
  shift
  found=$("$@") || fail "$name fails"
  [ "$found" = "$version" ] || fail "$name prints '$found', not '$version'"
  echo "$name: $found"
}

# needs_library PROGRAM: whether the dynamic loader has to find the library.
needs_library() {
  readelf -d "$1" | grep -q 'NEEDED.*libflashmla\.so'
}

cmake --install "$build" --prefix "$scratch/first" >"$scratch/install.log" 2>&1 || {
  cat "$scratch/install.log"
  fail "cmake --install fails"
}
prefix=$scratch/moved
mv "$scratch/first" "$prefix"
for file in include/flash_mla.h 'lib*/libflashmla.so' "lib*/libflashmla.so.${version%%.*}" "lib*/libflashmla.so.$version" \
  'lib*/libflashmla.a' 'lib*/cmake/flashmla/flashmla-config.cmake' 'lib*/pkgconfig/flashmla.pc'; do
  # On some systems lib has a directory of the architecture's in it.
  [ -n "$(find "$prefix" -path "$prefix/$file" -o -path "$prefix/$(echo "$file" | sed 's,^lib\*,lib/*,')")" ] ||
    fail "$file is not installed"
done
libraries=$(dirname "$(find "$prefix" -name libflashmla.a)")

{
  cmake -S "$source/consumer" -B "$scratch/cmake" -G "$generator" -DCMAKE_C_COMPILER="$cc" \
    -DCMAKE_PREFIX_PATH="$prefix" -DPACKAGE_VERSION="$version" && cmake --build "$scratch/cmake"
} >"$scratch/cmake.log" 2>&1 || {
  cat "$scratch/cmake.log"
  fail "the CMake package does not work"
}
run "CMake, shared" "$scratch/cmake/consumer_shared"
run "CMake, static" "$scratch/cmake/consumer_static"
needs_library "$scratch/cmake/consumer_shared" || fail "flashmla::flashmla is not the shared library"
! needs_library "$scratch/cmake/consumer_static" || fail "flashmla::flashmla_static is not the static library"

export PKG_CONFIG_PATH="$libraries/pkgconfig"
run "pkg-config" pkg-config --modversion flashmla
# The flags are words for the compiler.
# shellcheck disable=SC2046
"$cc" "$source/consumer/consumer.c" -o "$scratch/shared" $(pkg-config --cflags --libs flashmla)
# shellcheck disable=SC2046
"$cc" -static "$source/consumer/consumer.c" -o "$scratch/static" $(pkg-config --static --cflags --libs flashmla)
run "pkg-config, shared" env LD_LIBRARY_PATH="$libraries" "$scratch/shared"
run "pkg-config, static" "$scratch/static"
needs_library "$scratch/shared" || fail "pkg-config does not lead to the shared library"

# The same program on a machine without a driver, and on one where it is found by its name.
sees() {
  seen=$(env -u FMLA_CUDA_DRIVER "$2" LD_LIBRARY_PATH="$scratch/driver:$libraries" "$scratch/shared" devices) ||
    fail "the program fails $3"
  [ "$seen" = "$1" ] || fail "the program sees '$seen' $3, not '$1'"
  echo "$3: $seen"
}
mkdir "$scratch/driver"
sees cpu FMLA_CUDA_DRIVER=none "without a driver"
if [ -n "$driver" ]; then
  ln -s "$driver" "$scratch/driver/libcuda.so.1"
  sees "cuda:0 cuda:1 cpu" FMLA_CUDA_DRIVER= "with a driver"
fi

if [ -e "$prefix/bin/flashmla" ]; then # finds the library beside itself
  "$prefix/bin/flashmla" info >"$scratch/info" || fail "the installed program does not run"
  grep -q -F "$version" "$scratch/info" || fail "the installed program does not tell its version"
  echo "program: $(head -1 "$scratch/info")"
fi
