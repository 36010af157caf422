#!/bin/sh
# Installs what a job of the Makefile needs and this machine lacks, where that is allowed; else says the one line to run.
# usage: setup.sh build|test|lint
set -eu

# job: what shows that a package is there (a tool, a pkg-config file, a file or module of Python's) = Debian package
build="cc=gcc cmake=cmake ninja=ninja-build pkg-config=pkg-config pkg:jansson=libjansson-dev"
tests="$build c++=g++ qemu-x86_64=qemu-user pkg:cmocka=libcmocka-dev python3=python3 \
py:ensurepip=python3-venv pyheader:Python.h=python3-dev"
lint="$tests clang=clang clang-format=clang-format clang-tidy=clang-tidy shellcheck=shellcheck mandoc=mandoc"

case "${1-}" in
build) needed=$build ;;
test) needed=$tests ;;
lint) needed=$lint ;;
*)
  echo "usage: setup.sh build|test|lint" >&2
  exit 2
  ;;
esac

is_there() {
  case "$1" in
  pkg:*) pkg-config --exists "${1#pkg:}" 2>/dev/null ;;
  py:*) python3 -c "import ${1#py:}" 2>/dev/null ;;
  pyheader:*) [ -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)/${1#pyheader:}" ] ;;
  *) command -v "$1" >/dev/null 2>&1 ;;
  esac
}

missing=
for pair in $needed; do
  is_there "${pair%=*}" || missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0

# A C compiler brings no libc headers by itself where recommended packages are left out.
case "$missing" in *gcc*) missing="$missing libc6-dev" ;; esac

as_root=
[ "$(id -u)" -eq 0 ] || as_root=sudo
line="${as_root:+$as_root }apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: missing are the Debian packages$missing, or what corresponds to them here" >&2
  exit 4
fi
if [ -n "$as_root" ] && ! sudo -n true 2>/dev/null; then
  echo "setup: please run: $line" >&2
  exit 4
fi
echo "setup: $line" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
{ $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends $missing; } >&2 || {
  echo "setup: that failed; please run: $line" >&2
  exit 4
}
