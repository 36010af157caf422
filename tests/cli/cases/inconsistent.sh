# shellcheck shell=bash
# A step that is right, and what becomes of it when one thing is changed: step METADATA TENSOR...; a tensor that is
# named takes the place of the right one, and ':' behind its name leaves it out.
step() {
  local metadata=$1 all=() right name
  shift
  for right in q:F32:1,1,2,2:'f32 1 1 1 1' kv_cache:F32:1,2,2:'f32 1 1 2 2' block_table:I32:1,1:'i32 0' \
    cache_seqlens:I32:1:'i32 2'; do
    name=${right%%:*}
    [[ " $*" == *" $name:"* ]] || all+=("$right")
  done
  for right in "$@"; do
    [[ $right == *: ]] || all+=("$right")
  done
  echo "-- $metadata $*"
  tensors step "$metadata" "${all[@]}"
  flashmla decode step -o out >/dev/null
  echo "exit $?"
}
step ''
step '' q:
step '' kv_cache:
step '' block_table:
step '' cache_seqlens:
step '' q: q_nope:F32:1,1,2,1:'f32 1 1'
step '' q_rope:F32:1,1,2,1:'f32 1 1'
step '' q:F16:1,1,2,2:'i32 0 0'
step '' q:F32:2,2:'f32 1 1 1 1'
step '' q:F32:2,1,1,2:'f32 1 1 1 1'
step '' q:F32:1,1,4,1:'f32 1 1 1 1'
step '' q:F32:1,1,0,2:true
step '' q:F32:0,1,1,99999999999:true
step '' q:F32:0,2147483647,1024,2:true block_table:I32:0,1:true cache_seqlens:I32:0:true
step '' q:F32:1,2147483647,2,0:true kv_cache:F32:1,1,0:true
step '' kv_cache:F32:0,2147483647,2147483647,2:true
step '' q: q_nope:F32:1,1,2,1:'f32 1 1' q_rope:F32:1,1,1,1:'f32 1'
step '' q: q_nope:F32:1,1,2,1:'f32 1 1' q_rope:BF16:1,1,2,1:'bf16 1 1'
step '' q: q_nope:F32:1,1,2,1:'f32 1 1' q_rope:F32:1,1,2,2:'f32 1 1 1 1'
step '' q: q_nope:F32:1,1,2,0:true q_rope:F32:1,1,2,2:'f32 1 1 1 1'
step '' kv_cache:I32:1,2,2:'i32 1 1 1 1'
step '' kv_cache:F32:4:'f32 1 1 1 1'
step '' kv_cache:F32:1,2,1,1,2:'f32 1 1 1 1'
step '' kv_cache:F32:1,1,4,1:'f32 1 1 1 1'
step '' kv_cache:F32:1,2,4,2:'f32 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1'
step '' kv_cache:F32:2,0,2:true
step '' block_table:F32:1,1:'f32 0'
step '' block_table:I32:1:'i32 0'
step '' block_table:I32:2,1:'i32 0 0'
step '' cache_seqlens:I32:1,1:'i32 2'
step '' cache_seqlens:U32:1:'i32 2'
step '' sink:F32:1:'f32 1'
step '' sink:BF16:2:'bf16 1 1'
step '' cu_seqlens_q:I32:2:'i32 0 1'
step '' q:F32:2,1,2:'f32 1 1 1 1' cu_seqlens_q:I32:1:'i32 0'
step '"head_dim_v":"3"'
step '"head_dim_v":"0"'
step '"head_dim_v":"two"'
step '"softmax_scale":"0"'
step '"softmax_scale":"1e99"'
step '"softmax_scale":"nan"'
step '"softmax_scale":"1 "'
step '"causal":"true"'
echo "-- values"
step '' block_table:I32:1,1:'i32 1'
step '' block_table:I32:1,1:'i32 -1'
step '' cache_seqlens:I32:1:'i32 3'
step '' cache_seqlens:I32:1:'i32 -1'
step '' q:F32:2,1,2:'f32 1 1 1 1' cu_seqlens_q:I32:2:'i32 0 3'
step '' q:F32:2,1,2:'f32 1 1 1 1' cu_seqlens_q:I32:2:'i32 1 2'
step '' q:F32:2,1,2:'f32 1 1 1 1' cu_seqlens_q:I32:2:'i32 0 -1'
ls
