"""Greedy decoding with a transformers DeepSeek-V3 model whose attention reads a paged cache through flash_mla.

Prompts of different lengths are prefilled by the model's own attention, one by one; their latents go to the cache.
Then all sequences decode as one batch: the up-projection of the keys is absorbed into the query, that of the values is
applied to the result. The model here is small, but for its attention, and drawn from a seed:

    python deepseek_v3.py
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from flash_mla import flash_mla_with_kvcache, get_mla_metadata
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave


@dataclass
class PagedCache:
    """The latents of a batch in every layer. Pages are handed out in advance, in no order."""

    num_layers: int
    batch: int
    max_tokens: int
    head_dim: int
    dtype: torch.dtype
    device: str
    page_size: int = 64
    pages: list[Tensor] = field(init=False)  # of each layer, [num_pages, page_size, 1, head_dim]
    block_table: Tensor = field(init=False)  # [batch, pages of a sequence]
    cache_seqlens: Tensor = field(init=False)  # [batch]

    def __post_init__(self) -> None:
        columns = -(-self.max_tokens // self.page_size)
        shape = (self.batch * columns, self.page_size, 1, self.head_dim)
        self.pages = [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(self.num_layers)]
        order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(0))
        self.block_table = order.view(self.batch, columns).int().to(self.device)
        self.cache_seqlens = torch.zeros(self.batch, dtype=torch.int32, device=self.device)

    def write(self, layer: int, sequences: Tensor, positions: Tensor, entries: Tensor) -> None:
        """Puts entries [n, head_dim] where token positions[i] of sequence sequences[i] belongs."""
        page = self.block_table[sequences, positions // self.page_size].long()
        self.pages[layer][page, positions % self.page_size, 0] = entries.to(self.dtype)


class PagedAttention(nn.Module):
    """Takes the place of a DeepseekV3Attention, whose weights it uses."""

    def __init__(self, own: nn.Module, cache: PagedCache) -> None:
        super().__init__()
        self.own = own
        self.cache = cache
        self.prefilling: int | None = None  # the sequence that the model's own attention works on
        heads, nope, v_dim, rank = own.num_heads, own.qk_nope_head_dim, own.v_head_dim, own.kv_lora_rank
        w_uk, w_uv = own.kv_b_proj.weight.view(heads, nope + v_dim, rank).split([nope, v_dim], dim=1)
        self.w_uk, self.w_uv = w_uk, w_uv.transpose(1, 2)  # [heads, nope, rank], [heads, rank, v_dim]

    def project(self, hidden: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of the query, each [batch, tokens, heads, -], and the cache's entry [batch, tokens, -]."""
        own = self.own
        q = own.q_b_proj(own.q_a_layernorm(own.q_a_proj(hidden)))
        q = q.view(*hidden.shape[:2], own.num_heads, own.qk_head_dim).transpose(1, 2)
        q_nope, q_rope = q.split([own.qk_nope_head_dim, own.qk_rope_head_dim], dim=-1)
        latent, k_rope = own.kv_a_proj_with_mqa(hidden).split([own.kv_lora_rank, own.qk_rope_head_dim], dim=-1)
        q_rope, k_rope = apply_rotary_pos_emb_interleave(q_rope, k_rope[:, None], *cos_sin)
        entry = torch.cat([own.kv_a_layernorm(latent), k_rope[:, 0]], dim=-1)
        return q_nope.transpose(1, 2), q_rope.transpose(1, 2), entry

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **others: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of a layer: the model's own, or over the cache."""
        cache, layer = self.cache, self.own.layer_idx
        q_nope, q_rope, entry = self.project(hidden_states, position_embeddings)
        if self.prefilling is not None:
            positions = torch.arange(entry.shape[1], device=entry.device)
            cache.write(layer, torch.full_like(positions, self.prefilling), positions, entry[0])
            return self.own(hidden_states, position_embeddings=position_embeddings, **others)

        sequences = torch.arange(cache.batch, device=entry.device)
        cache.write(layer, sequences, cache.cache_seqlens - 1, entry[:, 0])
        absorbed = torch.einsum("bshn,hnr->bshr", q_nope, self.w_uk)
        q = torch.cat([absorbed, q_rope], dim=-1).to(cache.dtype)
        out, _ = flash_mla_with_kvcache(
            q,
            cache.pages[layer],
            cache.block_table,
            cache.cache_seqlens,
            self.own.kv_lora_rank,
            *get_mla_metadata(),
            softmax_scale=self.own.scaling,
            causal=True,
        )
        values = torch.einsum("bshr,hrv->bshv", out.to(self.w_uv.dtype), self.w_uv)
        return self.own.o_proj(values.flatten(2)), None


@torch.inference_mode()
def generate(
    model: DeepseekV3ForCausalLM, prompts: list[Tensor], steps: int, cache_dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """Decodes greedily: tokens [batch, steps] and their logits [batch, steps, vocabulary]. Changes the model."""
    config = model.config
    cache = PagedCache(
        num_layers=config.num_hidden_layers,
        batch=len(prompts),
        max_tokens=max(map(len, prompts)) + steps,
        head_dim=config.kv_lora_rank + config.qk_rope_head_dim,
        dtype=cache_dtype,
        device=str(model.device),
    )
    attentions = [PagedAttention(layer.self_attn, cache) for layer in model.model.layers]
    for layer, attention in zip(model.model.layers, attentions, strict=True):
        layer.self_attn = attention

    logits = []
    for sequence, prompt in enumerate(prompts):
        for attention in attentions:
            attention.prefilling = sequence
        logits.append(model(prompt[None], use_cache=False).logits[0, -1])
        cache.cache_seqlens[sequence] = len(prompt)
    for attention in attentions:
        attention.prefilling = None

    steps_logits = [torch.stack(logits)]
    tokens = [steps_logits[-1].argmax(-1)]
    while len(tokens) < steps:
        positions = cache.cache_seqlens[:, None].long()
        cache.cache_seqlens += 1
        steps_logits.append(model(tokens[-1][:, None], position_ids=positions, use_cache=False).logits[:, -1])
        tokens.append(steps_logits[-1].argmax(-1))
    return torch.stack(tokens, 1), torch.stack(steps_logits, 1)


def make_model(device: str = "cpu") -> DeepseekV3ForCausalLM:
    """A model of three layers with DeepSeek-V3's attention dimensions, weights drawn from a seed."""
    config = DeepseekV3Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=8,
        num_key_value_heads=8,
        q_lora_rank=192,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        # Every token goes to all experts: a choice of some would turn a rounding into another model.
        n_routed_experts=4,
        num_experts_per_tok=4,
        n_group=1,
        topk_group=1,
        max_position_embeddings=4096,
    )
    model = DeepseekV3ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(0.5 + torch.rand(weight.shape, generator=generator))
            else:
                gain = 2.5 if "q_b_proj" in name else 1.0  # attention that picks tokens out
                weight.copy_(torch.randn(weight.shape, generator=generator) * gain * weight.shape[-1] ** -0.5)
    return model.to(device)


def main() -> None:
    """Decodes 32 tokens behind four drawn prompts."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(512, (length,), generator=generator).to(device) for length in (5, 64, 130, 200)]
    tokens, _ = generate(make_model(device), prompts, steps=32)
    for prompt, continuation in zip(prompts, tokens.tolist(), strict=True):
        print(f"{len(prompt):4} tokens, then {continuation}")


if __name__ == "__main__":
    main()
