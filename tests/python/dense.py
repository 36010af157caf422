"""Dense decoding as FlashMLA's own test has it: the shapes, the data, PyTorch's answer, the tolerances."""

import math
import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import combinations, product

import torch
from torch import Tensor

HEAD_DIM, HEAD_DIM_V = 576, 512
PAGE_SIZE = 64
UNUSED_PAGE = 2147480000  # in the table behind a sequence's pages


@dataclass(frozen=True)
class Case:
    """One call. `seqlen_k` is the mean length if they vary."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int
    kv_heads: int
    varlen: bool
    causal: bool
    zero_lengths: bool = False

    @property
    def cost(self) -> int:
        """Of the product and of making the cache, in units of a query head's row and a token."""
        return self.batch * self.seqlen_k * (self.seqlen_q * self.heads + 8 * self.kv_heads)


HEADS = (1, 3, 9, 63, 64, 126, 128)
KV_HEADS = (1, 2, 3, 8)
CORRECTNESS = [
    Case(*values)
    for values in product((1, 2, 6, 64), (1, 2, 4), (20, 140, 4096), HEADS, KV_HEADS, (False, True), (False, True))
    if values[3] % values[4] == 0
]
CORNERS = [
    Case(128, 2, 4096, heads, kv_heads, varlen=True, causal=causal, zero_lengths=True)
    for heads, kv_heads, causal in product(HEADS, KV_HEADS, (False, True))
    if heads % kv_heads == 0
]


def every_pair(cases: list[Case]) -> Iterator[Case]:
    """The cheapest cases in which each two values that occur together do so at least once."""
    covered = set()
    for case in sorted(cases, key=lambda case: case.cost):
        pairs = set(combinations(enumerate(astuple(case)), 2))
        if pairs - covered:
            covered |= pairs
            yield case


@dataclass
class Step:
    """The arguments of a call."""

    q: Tensor
    kv_cache: Tensor
    block_table: Tensor
    cache_seqlens: Tensor


def make_lengths(case: Case, seed: int = 0) -> Tensor:
    """int32 [batch] on the host."""
    rng = random.Random(seed)
    lengths = [case.seqlen_k] * case.batch
    if case.varlen:
        lengths = [max(int(rng.normalvariate(case.seqlen_k, case.seqlen_k / 2)), case.seqlen_q) for _ in lengths]
    if case.zero_lengths:
        lengths = [length * rng.randint(0, 1) for length in lengths]
    return torch.tensor(lengths, dtype=torch.int32)


@lru_cache(2)
def draw_pool(dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """Values that pages are cut from: to draw gigabytes of cache anew for each case would take most of the time."""
    return draw((1 << 22,), dtype, device, seed)


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, device=device, generator=generator).div_(10).clamp_(-1, 1).to(dtype)


def make_step(case: Case, dtype: torch.dtype, device: str, seed: int = 0) -> Step:
    """Drawn values; pages in drawn order; NaN in pages without tokens and behind each sequence's last token."""
    rng = random.Random(seed)
    lengths = make_lengths(case, seed)
    used = [-(-length // PAGE_SIZE) for length in lengths.tolist()]
    columns = 4 * max(math.ceil(max(used) / 4), 1)
    pages = list(range(sum(used) + 4 * case.batch))
    rng.shuffle(pages)
    pool, shape = draw_pool(dtype, device, seed), (PAGE_SIZE, case.kv_heads, HEAD_DIM)
    cache = torch.full((len(pages), *shape), math.nan, dtype=dtype, device=device)
    table = torch.full((case.batch, columns), UNUSED_PAGE, dtype=torch.int32)
    for row, length, count in zip(table, lengths.tolist(), used, strict=True):
        own, pages = pages[:count], pages[count:]
        row[:count] = torch.tensor(own)
        for page in own:
            start = rng.randrange(pool.numel() - math.prod(shape))
            cache[page] = pool[start : start + math.prod(shape)].view(shape)
        if length % PAGE_SIZE:
            cache[own[-1], length % PAGE_SIZE :] = math.nan
    q = draw((case.batch, case.seqlen_q, case.heads, HEAD_DIM), dtype, device, seed + 1)
    return Step(q, cache, table.to(device), lengths.to(device))


def reference(step: Step, causal: bool, softmax_scale: float = HEAD_DIM**-0.5) -> tuple[Tensor, Tensor]:
    """out, of q's dtype, and lse as PyTorch computes them in FP32. A row without keys has zeros and +inf."""
    batch, seqlen_q, heads, dim = step.q.shape
    kv_heads = step.kv_cache.shape[2]
    out = step.q.new_zeros(batch, seqlen_q, heads, HEAD_DIM_V)
    lse = step.q.new_full((batch, heads, seqlen_q), math.inf, dtype=torch.float32)
    for i, length in enumerate(step.cache_seqlens.tolist()):
        if length == 0:
            continue
        pages = step.block_table[i, : -(-length // PAGE_SIZE)].long()
        keys = step.kv_cache[pages].flatten(0, 1)[:length].float().transpose(0, 1)  # [kv_heads, length, dim]
        # The rows of a KV head: [kv_heads, heads of it * seqlen_q, dim]
        rows = step.q[i].float().transpose(0, 1).reshape(kv_heads, -1, dim)
        scores = ((rows @ keys.mT) * softmax_scale).view(heads, seqlen_q, length)
        if causal:
            hidden = torch.ones(seqlen_q, length, dtype=torch.bool, device=scores.device).triu(length - seqlen_q + 1)
            scores.masked_fill_(hidden, -math.inf)
        row_lse = scores.logsumexp(-1)
        some = row_lse > -math.inf
        weights = torch.exp(scores - row_lse.where(some, 0)[..., None]).view(kv_heads, -1, length)
        values = (weights @ keys[..., :HEAD_DIM_V]).view(heads, seqlen_q, HEAD_DIM_V)
        out[i] = values.transpose(0, 1)
        lse[i] = row_lse.where(some, math.inf)
    return out, lse


def disagreement(got: Tensor, want: Tensor, abs_tol: float, rel_tol: float, cosine_tol: float) -> str | None:
    """What differs by FlashMLA's rule: each value absolutely or relatively close, and all together by their cosine."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype} {tuple(got.shape)} instead of {want.dtype} {tuple(want.shape)}"
    got, want = got.double(), want.double()
    for odd in (math.inf, -math.inf):
        if not torch.equal(got == odd, want == odd):
            return f"{odd} stands in other places"
    got, want = got.where(~got.isinf(), 0), want.where(~want.isinf(), 0)
    if got.isnan().any():
        return "NaN"
    error = (got - want).abs()
    wrong = ~((error < abs_tol) | (error / (want.abs() + 1e-6) < rel_tol))
    if wrong.any():
        return f"{int(wrong.sum())} of {wrong.numel()} values are off, by up to {float(error[wrong].max()):.3g}"
    size = float((got * got + want * want).sum())
    cosine = 1 - 2 * float((got * want).sum()) / size if size > 1e-12 else 0.0
    return f"cosine off by {cosine:.3g}" if abs(cosine) > cosine_tol else None


def check(step: Step, causal: bool, out: Tensor, lse: Tensor) -> None:
    """Raises AssertionError where a call's results are not PyTorch's within FlashMLA's tolerances."""
    want_out, want_lse = reference(step, causal)
    wrong = disagreement(out, want_out, abs_tol=8e-4, rel_tol=2.01 / 128, cosine_tol=5e-6)
    assert wrong is None, f"out: {wrong}"
    wrong = disagreement(lse, want_lse, abs_tol=1e-6, rel_tol=8.01 / 65536, cosine_tol=1e-7)
    assert wrong is None, f"lse: {wrong}"
