"""FlashMLA's calls, with its names, argument order, defaults, shapes and return values."""

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _library, _torch

# Columns of the table that get_mla_metadata used to fill.
_TABLE_COLUMNS = 8


@dataclass
class FlashMLASchedMeta:
    """What FlashMLA keeps from call to call. Here nothing is kept: every field stays as it is.

    A schedule is derived from the lengths by each call, on the device, so one object serves any calls.
    """

    have_initialized: bool = False
    config: Any = None
    tile_scheduler_metadata: Tensor | None = None
    num_splits: Tensor | None = None


def get_mla_metadata(*args: Any, **kwargs: Any) -> tuple[FlashMLASchedMeta, None] | tuple[Tensor, Tensor]:
    """What `flash_mla_with_kvcache` takes as `tile_scheduler_metadata` and `num_splits`. It needs neither.

    Without arguments: `(FlashMLASchedMeta(), None)`.

    With `cache_seqlens` [batch], as the first argument or by name, and whatever else an engine gives: two int32
    tensors of zeros on its device, [multiprocessors, 8] and [batch + 1], for engines that copy them into buffers of
    their own.
    """
    cache_seqlens = args[0] if args else kwargs.get("cache_seqlens")
    if cache_seqlens is None:
        return FlashMLASchedMeta(), None
    if not isinstance(cache_seqlens, Tensor):
        raise TypeError(f"cache_seqlens is a {type(cache_seqlens).__name__}, but must be a torch.Tensor")
    num_parts = max(_library.num_sms(cache_seqlens.get_device()), 1)
    return (
        cache_seqlens.new_zeros((num_parts, _TABLE_COLUMNS), dtype=torch.int32),
        cache_seqlens.new_zeros(cache_seqlens.shape[0] + 1, dtype=torch.int32),
    )


def flash_mla_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    block_table: Tensor | None,
    cache_seqlens: Tensor | None,
    head_dim_v: int,
    tile_scheduler_metadata: FlashMLASchedMeta | Tensor | None,
    num_splits: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: Tensor | None = None,
    attn_sink: Tensor | None = None,
    extra_k_cache: Tensor | None = None,
    extra_indices_in_kvcache: Tensor | None = None,
    topk_length: Tensor | None = None,
    extra_topk_length: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each sequence's query tokens over its keys in a paged cache, one decode step.

    Args:
        q: [batch, seqlen_q, num_q_heads, head_dim_k], bfloat16 or float16.
        k_cache: [num_pages, page_size, num_kv_heads, head_dim_k], of q's dtype; V is the first `head_dim_v` values of
            a token's entry. Any page size.
        block_table: [batch, max_pages_per_seq], int32: the pages of each sequence. Entries beyond its length may hold
            anything.
        cache_seqlens: [batch], int32: tokens of each sequence in the cache, 0 allowed.
        head_dim_v: 512 for DeepSeek's models; any from 1 to head_dim_k.
        tile_scheduler_metadata, num_splits: what `get_mla_metadata` returned, either form. Not looked at.
        softmax_scale: multiplies q . k before the softmax; None: 1 / sqrt(head_dim_k).
        causal: the last query token sees all keys, each one before it one less.
        attn_sink: [num_q_heads], float32: scales out by exp(lse) / (exp(lse) + exp(attn_sink)); lse stays as it is.
        is_fp8_kvcache, indices, extra_k_cache, extra_indices_in_kvcache, topk_length, extra_topk_length: not built yet.

    Returns:
        out: [batch, seqlen_q, num_q_heads, head_dim_v], of q's dtype; zeros for a row without keys.
        lse: [batch, num_q_heads, seqlen_q], float32, the natural logarithm of the sum of exp(scores); +inf for a row
            without keys.

    Raises:
        NotImplementedError: for an FP8 cache or sparse attention.
        TypeError, ValueError: for an argument of a wrong dtype, device, shape, stride or value, by name.
        RuntimeError: if the device cannot serve the call, such as a GPU whose driver is too old.
    """
    if is_fp8_kvcache:
        raise NotImplementedError("is_fp8_kvcache is True, but FP8 caches are not built yet")
    if (
        indices is not None
        or extra_k_cache is not None
        or extra_indices_in_kvcache is not None
        or topk_length is not None
        or extra_topk_length is not None
    ):
        raise NotImplementedError(
            "indices, extra_k_cache or topk_length are given, but sparse attention is not built yet"
        )
    if block_table is None or cache_seqlens is None:
        raise ValueError("block_table and cache_seqlens must be given")
    flags = _library.EMPTY_LSE_POS_INF | (_library.CAUSAL if causal else 0)
    inputs = (q, None, k_cache, block_table, cache_seqlens, None, attn_sink)
    return _torch.decode(inputs, None, None, None, (head_dim_v, softmax_scale, flags, None, 0, 0))


def flash_mla_sparse_fwd(*args: Any, **kwargs: Any) -> NoReturn:
    """Sparse prefill: not built yet."""
    raise NotImplementedError("flash_mla_sparse_fwd, sparse prefill, is not built yet")


def flash_attn_varlen_func(*args: Any, **kwargs: Any) -> NoReturn:
    """Dense prefill: not built yet."""
    raise NotImplementedError("flash_attn_varlen_func, dense prefill, is not built yet")


def flash_attn_varlen_qkvpacked_func(*args: Any, **kwargs: Any) -> NoReturn:
    """Dense prefill: not built yet."""
    raise NotImplementedError("flash_attn_varlen_qkvpacked_func, dense prefill, is not built yet")


def flash_attn_varlen_kvpacked_func(*args: Any, **kwargs: Any) -> NoReturn:
    """Dense prefill: not built yet."""
    raise NotImplementedError("flash_attn_varlen_kvpacked_func, dense prefill, is not built yet")
