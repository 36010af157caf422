# shellcheck shell=bash
# What the cases share. They run in an empty directory of their own, with the snapshots linked into it.

# flashmla ARGUMENT...: the program.
flashmla() {
  "$FLASHMLA" "$@"
}

# run ARGUMENT...: shows the command, what it prints, what it prints on stderr behind '!', and how it ends.
run() {
  echo "\$ flashmla $*"
  flashmla "$@" 2>.stderr
  local code=$?
  sed 's/^/! /' .stderr
  echo "exit $code"
}

# quietly ARGUMENT...: the same without what it prints on stdout.
quietly() {
  echo "\$ flashmla $* >/dev/null"
  run "$@" | sed -n '/^! /p; $p'
}

# numbers: every number with a fraction becomes N, and white space one space.
numbers() {
  sed -E 's/[0-9]+\.[0-9]+(e[-+][0-9]+)?/N/g; s/ +/ /g'
}

# little_endian BYTES NUMBER: a number as so many bytes.
little_endian() {
  local number=$2
  for ((i = 0; i < $1; i++)); do
    # shellcheck disable=SC2059
    printf "\\x$(printf %x $((number & 255)))"
    number=$((number >> 8))
  done
}

# i32 NUMBER...: as I32.
i32() {
  for number in "$@"; do
    little_endian 4 "$number"
  done
}

# bf16 and f32 NUMBER...: the numbers -2, -1, 0, 1, 2, 3 and 4 in the upper bits of a float.
bf16() {
  local -A bits=([-2]=49152 [-1]=49024 [0]=0 [1]=16256 [2]=16384 [3]=16448 [4]=16512)
  for number in "$@"; do
    little_endian 2 "${bits[$number]}"
  done
}
f32() {
  for number in "$@"; do
    little_endian 2 0
    bf16 "$number"
  done
}

# raw FILE HEADER_LENGTH HEADER: a safetensors file with its data from stdin.
raw() {
  {
    little_endian 8 "$2"
    printf '%s' "$3"
    cat
  } >"$1"
}

# tensors FILE METADATA NAME:DTYPE:SHAPE:DATA...: a whole file; DATA is a command that prints the data.
tensors() {
  local file=$1 header="{\"__metadata__\":{$2}" end=0 begin name dtype shape data
  shift 2
  : >.data
  for tensor in "$@"; do
    IFS=: read -r name dtype shape data <<<"$tensor"
    eval "$data" >>.data
    begin=$end
    end=$(stat -c %s .data)
    header+=",\"$name\":{\"dtype\":\"$dtype\",\"shape\":[$shape],\"data_offsets\":[$begin,$end]}"
  done
  raw "$file" $((${#header} + 1)) "$header}" <.data
}

# header FILE: the header of a safetensors file.
header() {
  local length
  length=$(od -An -tu8 -N8 "$1")
  tail -c +9 "$1" | head -c "$((length))" | sed 's/ *$//'
  echo
}

# floats FILE: what lies behind the header, as F32.
floats() {
  local length
  length=$(od -An -tu8 -N8 "$1")
  tail -c +$((9 + length)) "$1" | od -An -v -w4 -tf4 | while read -r value; do printf ' %.4f' "$value"; done
  echo
}

# valid_json: says whether stdin is JSON, by how the program refuses it as the header of a file.
valid_json() {
  local text
  text=$(cat)
  raw .probe ${#text} "$text" </dev/null
  if flashmla decode .probe -o .none 2>&1 | grep -q 'not valid JSON\|does not begin'; then
    echo "not JSON: $text"
  else
    echo "valid JSON"
  fi
}
