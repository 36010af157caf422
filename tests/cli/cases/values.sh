# shellcheck shell=bash
# Small steps whose results are known: with q = 1 and keys of 1 and 2 in two dimensions, the scores at scale 1/2 are 1
# and 2, so lse = log(e + e^2) = 2.3133 and out = (e + 2 e^2) / (e + e^2) = 1.7311.
two_keys=('block_table:I32:1,1:i32 0' 'cache_seqlens:I32:1:i32 2')

tensors f32 '"softmax_scale":"0.5"' q:F32:1,1,1,2:'f32 1 1' kv_cache:F32:1,2,2:'f32 1 1 2 2' "${two_keys[@]}"
for dtype in bf16 fp16; do
  quietly decode f32 -o out --dtype $dtype --check
  header out
  floats out
done
quietly decode f32 -o out --out-dtype bf16 --check
header out

echo "The default scale is 2^-0.5; head_dim_v is 1:"
tensors bf16 '"head_dim_v":"1"' q:BF16:1,1,1,2:'bf16 1 1' kv_cache:BF16:1,2,2:'bf16 1 1 2 2' "${two_keys[@]}"
quietly decode bf16 -o out --out-dtype fp32 --check
header out
floats out

echo "Two queries, the first of which sees one key; q in two parts, and data that is not aligned:"
tensors split '"softmax_scale":"0.5","causal":"1"' odd:U8:1:'printf x' q_rope:F32:1,2,1,1:'f32 1 1' \
  kv_cache:F32:1,2,1,2:'f32 1 1 2 2' q_nope:F32:1,2,1,1:'f32 1 1' "${two_keys[@]}"
quietly decode split -o out --check
header out
floats out

echo "Three queries, of which the second sequence has two, and the last row belongs to none; a sink of 2:"
tensors ragged '"softmax_scale":"0.5"' q:F32:4,1,2:'f32 1 1 1 1 1 1 1 1' kv_cache:F32:2,1,2:'f32 1 1 2 2' \
  block_table:I32:2,2:'i32 0 1 1 -1' cache_seqlens:I32:2:'i32 2 1' cu_seqlens_q:I32:3:'i32 0 1 3' sink:F32:1:'f32 2'
quietly decode ragged -o out --check
header out
floats out

echo "Two KV heads, four query heads:"
tensors heads '"softmax_scale":"1"' q:F32:1,1,4,1:'f32 1 2 1 2' kv_cache:F32:1,1,2,1:'f32 1 2' \
  block_table:I32:1,1:'i32 0' cache_seqlens:I32:1:'i32 1'
quietly decode heads -o out --check
floats out

echo "No sequence, and a sequence without keys:"
tensors none '' q:F32:0,1,1,2:true kv_cache:F32:0,64,2:true block_table:I32:0,3:true cache_seqlens:I32:0:true
quietly decode none -o out --check
header out
tensors empty '' q:F32:1,1,1,2:'f32 1 1' kv_cache:F32:0,64,2:true block_table:I32:1,0:true cache_seqlens:I32:1:'i32 0'
quietly decode empty -o out --check
floats out

echo "From a pipe, and onto the input itself:"
flashmla decode <(cat f32) -o out >/dev/null && floats out
quietly decode f32 -o f32
header f32
