# shellcheck shell=bash
# bad LENGTH HEADER: a file with some bytes of data.
bad() {
  printf 'data' | raw bad "$1" "$2"
  run decode bad -o out
}
run decode missing -o out
run decode . -o out
: >bad
run decode bad -o out
printf 'abc' >bad
run decode bad -o out
bad 0 ''
bad 100 '{}'
bad 100000001 '{}'
bad -1 '{}'
bad 2 '[]'
bad 2 '{}'
bad 6 '{"a":1'
bad 7 '{"a":1}'
bad 13 '{"a":1,"a":1}'
bad 18 '{"__metadata__":1}'
bad 24 '{"__metadata__":{"a":1}}'
bad 13 '{"a":{"x":1}}'
for tensor in '"dtype":"X","shape":[4],"data_offsets":[0,4]' '"dtype":"U8","shape":[-4],"data_offsets":[0,4]' \
  '"dtype":"U8","shape":[4.5],"data_offsets":[0,4]' '"dtype":"F32","shape":[4],"data_offsets":[0,4]' \
  '"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]' \
  '"dtype":"U8","shape":[5],"data_offsets":[0,5]' '"dtype":"U8","shape":[4],"data_offsets":[4,0]' \
  '"dtype":"U8","shape":[2],"data_offsets":[0,2]' '"dtype":"U8","shape":[2],"data_offsets":[2,4]'; do
  bad $((${#tensor} + 8)) "{\"a\":{$tensor}}"
done
first='"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}' second='"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}'
bad $((${#first} + ${#second} + 3)) "{$first,$second}"
head -c 100000 snapshots/long.safetensors >bad
run decode bad -o out
ls
