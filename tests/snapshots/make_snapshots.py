"""Write the decode snapshots, or check the ones that are there (--verify).

A snapshot is one decode step of a DeepSeek-V3 attention layer: the absorbed
query, the paged latent cache, and the `witness`, the input of o_proj that the
layer of `transformers` itself gave at those positions, run in FP32, eager and
un-absorbed, over the whole prompt under a causal mask. The weights are drawn
from a seed, then set so that attention is peaked and leans to near tokens; the
prompts are bytes of public-domain text through a drawn embedding. Inside the
layer only the weight of kv_b_proj is rounded to BF16, so `w_uv` is exact; `q`
and `kv_cache` are rounded once. --verify decodes in FP64: right, every query
row is within BOUND / 2 of its witness; with the scale 5% off, without the RoPE
part of the query, or without the mask where it hides anything, beyond BOUND.

Slots of the cache that no sequence names hold NaN. Under `causal`, row i of
the s_q query rows sees the first cache_seqlens - s_q + 1 + i tokens. The same
versions on the same processor give the same bytes; elsewhere FP32 may differ.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as dsv3

HERE = Path(__file__).resolve().parent
SEED = 20240607
MAX_BYTES = 3_000_000
BOUND = 0.0125  # relative L2 error allowed to a (sequence, query row), over heads x 128

HIDDEN, Q_RANK, HEADS = 256, 192, 8
RANK, NOPE, ROPE, V_DIM = 512, 128, 64, 128
SCALE = (NOPE + ROPE) ** -0.5
NOPE_GAIN, ROPE_GAIN = 3.0, 3.5  # standard deviation of the query's two parts
COMMON_GAIN, NEAR_GAIN = 1.5, 4.5  # see look_near


@dataclass(frozen=True)
class Spec:
    """One snapshot: which texts, cut to how many bytes, and how they are laid out."""

    name: str
    texts: tuple[tuple[str, int], ...]
    s_q: int = 1
    page_size: int = 64
    split_q: bool = False


SPECS = (
    Spec("short-batch", (("sonnet", 64), ("gettysburg", 200), ("declaration", 130), ("moby", 300))),
    Spec("mid-verify", (("declaration", 322), ("moby", 611)), s_q=4, split_q=True),
    Spec("long", (("alice", 1499),)),
    Spec("odd-pages", (("gettysburg", 401), ("sonnet", 140), ("alice", 259)), s_q=2, page_size=20),
)


def build_layer(gen: torch.Generator) -> tuple[dsv3.DeepseekV3Attention, nn.Module]:
    """The attention layer with drawn weights, and its rotary embedding."""
    ranks = {"q_lora_rank": Q_RANK, "kv_lora_rank": RANK}
    dims = {"qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": V_DIM}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    config = DeepseekV3Config(hidden_size=HIDDEN, **heads, **ranks, **dims)
    config._attn_implementation = "eager"
    layer = dsv3.DeepseekV3Attention(config, layer_idx=0).eval()
    assert layer.scaling == SCALE
    for _, weight in sorted(layer.named_parameters()):
        if weight.ndim == 1:
            weight.copy_(0.5 + torch.rand(weight.shape, generator=gen))
        else:
            weight.copy_(torch.randn(weight.shape, generator=gen) * weight.shape[1] ** -0.5)
    q_rows = layer.q_b_proj.weight.view(HEADS, NOPE + ROPE, Q_RANK)
    q_rows *= torch.tensor([NOPE_GAIN] * NOPE + [ROPE_GAIN] * ROPE)[:, None]
    layer.kv_b_proj.weight.copy_(layer.kv_b_proj.weight.bfloat16())
    return layer, dsv3.DeepseekV3RotaryEmbedding(config)


def look_near(layer: nn.Module, common: Tensor) -> None:
    """Make every query lean to near tokens, as trained layers do.

    All hidden states share `common`. The latent is made blind to it, the query's RoPE part
    gains a multiple of what it gives the key's: a product that falls off with distance.
    """
    common = nn.functional.rms_norm(common, (HIDDEN,))
    kv_rows = layer.kv_a_proj_with_mqa.weight
    kv_rows[:RANK] -= torch.outer(kv_rows[:RANK] @ common, common) / HIDDEN
    key = kv_rows[RANK:] @ common
    query = layer.q_a_layernorm(layer.q_a_proj(common))
    q_rows = layer.q_b_proj.weight.view(HEADS, NOPE + ROPE, Q_RANK)
    q_rows[:, NOPE:] += NEAR_GAIN * torch.outer(key, query) / query.dot(query)


def run_step(layer: nn.Module, rotary: nn.Module, hidden: Tensor, s_q: int) -> tuple[Tensor, ...]:
    """Run the layer over hidden [n, HIDDEN] and absorb its last s_q queries.

    Gives q [s_q, HEADS, RANK + ROPE], cache [n, RANK + ROPE], witness
    [s_q, HEADS, V_DIM], and the entropy of the attention [HEADS, s_q].
    """
    n, hidden = len(hidden), hidden[None]
    cos_sin = rotary(hidden, torch.arange(n)[None])
    mask = torch.full((n, n), -math.inf).triu(1)[None, None]
    seen: list[Tensor] = []
    with layer.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        probs = layer(hidden, cos_sin, mask)[1][0, :, -s_q:].double()

    q = layer.q_b_proj(layer.q_a_layernorm(layer.q_a_proj(hidden)))
    q = q.view(1, n, HEADS, NOPE + ROPE).transpose(1, 2)
    latent, k_rope = layer.kv_a_proj_with_mqa(hidden).split([RANK, ROPE], dim=-1)
    q_rope, k_rope = dsv3.apply_rotary_pos_emb_interleave(q[..., NOPE:], k_rope[:, None], *cos_sin)
    q_nope = torch.einsum("hsd,hdr->hsr", q[0, ..., :NOPE], up_projections(layer)[0])
    return (
        torch.cat([q_nope, q_rope[0]], -1)[:, -s_q:].transpose(0, 1),
        torch.cat([layer.kv_a_layernorm(latent)[0], k_rope[0, 0]], -1),
        seen[0][0, -s_q:].view(s_q, HEADS, V_DIM),
        -torch.xlogy(probs, probs).sum(-1),
    )


def up_projections(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """W_UK as [HEADS, NOPE, RANK] and W_UV as [HEADS, RANK, V_DIM]."""
    w_uk, w_uv = layer.kv_b_proj.weight.view(HEADS, NOPE + V_DIM, RANK).split([NOPE, V_DIM], dim=1)
    return w_uk, w_uv.transpose(1, 2)


def lay_out(caches: Sequence[Tensor], size: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Spread the caches over pages in drawn order, one page to spare: pages, block table."""
    counts = [-(-len(cache) // size) for cache in caches]
    order = torch.randperm(sum(counts) + 1, generator=gen).tolist()
    pages = torch.full((len(order), size, RANK + ROPE), math.nan, dtype=torch.bfloat16)
    table = torch.full((len(caches), max(counts)), -1, dtype=torch.int32)
    for row, cache in enumerate(caches):
        for col, part in enumerate(cache.split(size)):
            table[row, col] = page = order.pop()
            pages[page, : len(part)] = part
    return pages, table


def read_text(name: str, length: int) -> Tensor:
    """The first bytes of a text, its white space folded, as tokens."""
    data = " ".join((HERE / "text" / f"{name}.txt").read_text("ascii").split()).encode()
    assert len(data) >= length, name
    return torch.tensor(list(data[:length]))


def serialize(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with its metadata in sorted order (the library's order is random)."""
    blob = save({key: value.contiguous() for key, value in tensors.items()}, metadata)
    body = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:body])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[body:]


def make(spec: Spec, index: int) -> None:
    """Write one snapshot and say how peaked its attention is."""
    gen = torch.Generator().manual_seed(SEED + index)
    layer, rotary = build_layer(gen)
    embedding = torch.randn((256, HIDDEN), generator=gen)
    common = COMMON_GAIN * torch.randn(HIDDEN, generator=gen)
    look_near(layer, common)
    steps = []
    for name, length in spec.texts:
        hidden = nn.functional.rms_norm(embedding[read_text(name, length)] + common, (HIDDEN,))
        steps.append(run_step(layer, rotary, hidden, spec.s_q))
        median = steps[-1][-1].median().item()
        print(f"{spec.name:12} {name:12} median entropy {median:.3f}, log n {math.log(length):.3f}")
        assert median < 0.5 * math.log(length), "attention is not peaked"
    qs, caches, witnesses, _ = zip(*steps, strict=True)
    q = torch.stack(qs).bfloat16()
    queries = {"q_nope": q[..., :RANK], "q_rope": q[..., RANK:]} if spec.split_q else {"q": q}
    pages, table = lay_out(caches, spec.page_size, gen)
    tensors = queries | {
        "kv_cache": pages,
        "block_table": table,
        "cache_seqlens": torch.tensor([length for _, length in spec.texts], dtype=torch.int32),
        "w_uv": up_projections(layer)[1].bfloat16(),
        "witness": torch.stack(witnesses),
    }
    metadata = {
        "head_dim_v": str(RANK),
        "softmax_scale": repr(SCALE),
        "causal": str(int(spec.s_q > 1)),
        "source": ", ".join(f"{name} ({length} bytes)" for name, length in spec.texts),
    }
    blob = serialize(tensors, metadata)
    assert len(blob) <= MAX_BYTES, (spec.name, len(blob))
    (HERE / f"{spec.name}.safetensors").write_bytes(blob)


def decode(data: dict[str, Tensor], scale: float, rope: float, causal: bool) -> Tensor:
    """Absorbed attention in FP64 over each sequence's own slots, then the up-projection."""
    q = data["q"] if "q" in data else torch.cat([data["q_nope"], data["q_rope"]], -1)
    q = torch.cat([q[..., :RANK], rope * q[..., RANK:]], -1).double()
    out = []
    for row, n in enumerate(data["cache_seqlens"].tolist()):
        used = data["block_table"][row, : -(-n // data["kv_cache"].shape[1])]
        kv = data["kv_cache"][used].flatten(0, 1)[:n].double()
        scores = torch.einsum("shd,nd->shn", q[row], kv) * scale
        if causal:
            last = torch.arange(n - q.shape[1], n)[:, None, None]
            scores.masked_fill_(torch.arange(n) > last, -math.inf)
        out.append(scores.softmax(-1) @ kv[:, :RANK])
    return torch.einsum("bshr,hrv->bshv", torch.stack(out), data["w_uv"].double())


def verify(name: str) -> bool:
    """Print a file's errors, right and with mistakes; whether BOUND tells them apart."""
    with safe_open(HERE / f"{name}.safetensors", "pt") as file:
        meta, data = file.metadata(), {key: file.get_tensor(key) for key in file.offset_keys()}
    good = bool((~data["kv_cache"].isnan()).any(-1).sum() == data["cache_seqlens"].sum())
    causal, want = meta["causal"] == "1", data["witness"].double()
    cases = {"right": (1, 1, causal), "scale +5%": (1.05, 1, causal), "no RoPE": (1, 0, causal)}
    cases |= {"no mask": (1, 1, False)} if causal else {}
    for case, (scale, rope, mask) in cases.items():
        rows = slice(-1 if case == "no mask" else None)  # the last row sees everything
        diff = (decode(data, scale * float(meta["softmax_scale"]), rope, mask) - want)[:, rows]
        line = f"{name:12} {case:10}"
        for dim in (3, 2):  # by head, then over all heads
            error = diff.flatten(dim).norm(dim=-1) / want[:, rows].flatten(dim).norm(dim=-1)
            line += "".join(f"{x:9.5f}" for x in (error.min(), error.median(), error.max()))
        print(line)
        good &= bool((error < BOUND / 2).all() if case == "right" else (error > BOUND).all())
    return good


@torch.no_grad()
def main() -> None:
    """Make or verify every snapshot."""
    parser = argparse.ArgumentParser(description="make or verify the decode snapshots")
    parser.add_argument("--verify", action="store_true", help="check the files, write nothing")
    torch.set_num_threads(1)
    if parser.parse_args().verify:
        print("relative L2 error, min median max:  each head, then each row of all heads")
        if bad := [spec.name for spec in SPECS if not verify(spec.name)]:
            raise SystemExit(f"not told apart by the bound {BOUND}: {', '.join(bad)}")
    else:
        for index, spec in enumerate(SPECS):
            make(spec, index)


if __name__ == "__main__":
    main()
