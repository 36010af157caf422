#!/bin/sh
# The README's C example is examples/decode.c, which the tests build and run. usage: readme.sh ROOT
set -eu
# shellcheck disable=SC2016 # backticks of Markdown
sed -n '/^```c$/,/^```$/p' "$1/README.md" | sed '1d;$d' | diff - "$1/examples/decode.c"
