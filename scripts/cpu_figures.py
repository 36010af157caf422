#!/usr/bin/env python3
"""The measured part of docs/cpu-kernels.md: runs `flashmla bench`, prints tables, draws docs/cpu-share-of-floor.png.

A figure is the median of the rounds; a share or a ratio is formed within a round, beside the ceilings of its own run.
Without matplotlib there are tables only.
"""

import argparse
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/cpu-kernels.md"
PLOT = ROOT / "docs/cpu-share-of-floor.png"

# Kernels, the slowest first, and what their floors are computed with.
CEILING_OF = {
    "portable": "baseline FP32",
    "avx2": "AVX2 FP32",
    "avx512": "AVX-512 FP32",
    "avx512bf16": "AVX-512-BF16",
    "amx": "AMX-BF16",
}
HEADS = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (1024, 4096, 16384, 65536)
FIT_LENGTHS = tuple(1024 << i for i in range(8))
LADDER_HEADS = (16, 128)
SCALING = (("amx", 64), ("amx", 128), ("avx512bf16", 128), ("avx512", 128), ("avx2", 128))
VARLEN_BATCH = 16
# batch, heads, keys, the least share of the floor that is aimed at
AIMS = (
    (4, 128, 4096, 60),
    (4, 128, 16384, 60),
    (4, 64, 4096, 55),
    (4, 64, 16384, 55),
    (8, 16, 4096, 85),
    (8, 16, 32768, 85),
    (8, 1, 4096, 90),
    (8, 1, 32768, 90),
)

Run = dict[str, Any]  # what bench writes
Round = dict[str, Run]  # by name


def listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def calls() -> Iterator[tuple[str, str]]:
    """Each bench of a round: its name, and its options."""
    for kernel in CEILING_OF:
        yield f"ladder {kernel}", f"--kernel {kernel} --batch 4 --heads {listed(LADDER_HEADS)} --seqlen 4096"
    for length in LENGTHS:
        yield f"grid {length}", f"--batch 4 --heads {listed(HEADS)} --seqlen {length}"
    yield "aims 4", "--batch 4 --heads 64,128 --seqlen 4096,16384"
    yield "aims 8", "--batch 8 --heads 1,16 --seqlen 4096,32768"
    yield "short", "--batch 1 --heads 16 --seqlen 128"
    for kernel, heads in SCALING:
        for threads in (1, 2):
            options = f"--kernel {kernel} --threads {threads} --batch 4 --heads {heads} --seqlen 4096"
            yield f"threads {kernel} {heads} {threads}", options
    for heads in LADDER_HEADS:
        yield f"fit {heads}", f"--batch 1 --heads {heads} --seqlen {listed(FIT_LENGTHS)}"
    for name, option in (("same", ""), ("drawn", "--varlen")):
        yield f"lengths {name}", f"--batch {VARLEN_BATCH} --heads {listed(LADDER_HEADS)} --seqlen 4096 {option}"


def bench(program: str, options: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = [*shlex.split(program), "bench", "--device", "cpu", *options.split(), "--json", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run: Run = json.loads(path.read_text())
        return run


def measure(program: str, rounds: int, rows: Path | None) -> list[Round]:
    results: list[Round] = []
    for i in range(rounds):
        results.append({})
        for name, options in calls():
            print(f"round {i + 1} of {rounds}: {name}", flush=True)
            results[i][name] = bench(program, options)
        if rows is not None:
            rows.write_text(json.dumps(results))
    return results


def each(rounds: list[Round], name: str, what: str, **shape: int) -> list[float]:
    """A value of the row of this shape, in every round."""
    rows = [row for r in rounds for row in r[name]["rows"] if shape.items() <= row.items()]
    return [float(row[what]) for row in rows]


def ceilings(rounds: list[Round], name: str, what: str) -> list[float]:
    return [float(r[name]["ceilings"][what]) for r in rounds]


def ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def table(head: str, rows: list[str]) -> str:
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in rows)])


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def ladder(rounds: list[Round]) -> str:
    rows, before = [], dict[int, list[float]]()
    for kernel, ceiling in CEILING_OF.items():
        name = f"ladder {kernel}"
        rate = median(ceilings(rounds, name, "multiply_add_tflops"))
        cells = [f"`{kernel}`", f"{ceiling}, {rate:.3g} TFLOPS"]
        for heads in LADDER_HEADS:
            us = each(rounds, name, "us", heads=heads)
            gain = f"{ratio(before[heads], us):.1f}x" if heads in before else ""
            share = median(each(rounds, name, "share_of_floor", heads=heads))
            bound = rounds[0][name]["rows"][LADDER_HEADS.index(heads)]["bound"]
            tflops = median(each(rounds, name, "tflops", heads=heads))
            cells += [f"{median(us):.0f}", f"{tflops:.3g}", gain, f"{percent(share)} ({bound})"]
            before[heads] = us
        rows.append(" | ".join(cells))
    head = "kernel | its register ceiling"
    for heads in LADDER_HEADS:
        head += f" | {heads} heads: us | TFLOPS | gain | of its floor"
    return table(head, rows)


def grid(rounds: list[Round]) -> str:
    rows = []
    for heads in HEADS:
        shares = [median(each(rounds, f"grid {n}", "share_of_floor", heads=heads)) for n in LENGTHS]
        rows.append(" | ".join([str(heads), *map(percent, shares)]))
    return table("heads | " + " | ".join(f"{n} keys" for n in LENGTHS), rows)


def aims(rounds: list[Round]) -> str:
    rows = []
    for batch, heads, keys, aim in AIMS:
        shape = {"heads": heads, "seqlen": keys}
        us, share = (median(each(rounds, f"aims {batch}", what, **shape)) for what in ("us", "share_of_floor"))
        reached = "yes" if 100 * share >= aim else "no"
        rows.append(f"{batch} | {heads} | {keys} | {us:.0f} | {percent(share)} | {aim} % | {reached}")
    for kernel, aim in (("avx512bf16", 60), ("avx2", 50)):
        name = f"ladder {kernel}"
        us, share = (median(each(rounds, name, what, heads=128)) for what in ("us", "share_of_floor"))
        reached = "yes" if 100 * share >= aim else "no"
        rows.append(f"4, `{kernel}` | 128 | 4096 | {us:.0f} | {percent(share)} | {aim} % | {reached}")
    us = median(each(rounds, "short", "us"))
    rows.append(f"1 | 16 | 128 | {us:.0f} | | 60 us | {'yes' if us <= 60 else 'no'}")
    return table("batch | heads | keys | us | of the floor | aim | reached", rows)


def scaling(rounds: list[Round]) -> str:
    rows = []
    for kernel, heads in SCALING:
        one, two = (f"threads {kernel} {heads} {threads}" for threads in (1, 2))
        times = [each(rounds, name, "us") for name in (one, two)]
        rates = [ceilings(rounds, name, "multiply_add_tflops") for name in (one, two)]
        reads = [ceilings(rounds, name, "read_gb_per_s") for name in (one, two)]
        tflops = f"{median(each(rounds, one, 'tflops')):.3g}"
        cells = [f"`{kernel}`", str(heads), tflops, *(f"{median(us):.0f}" for us in times)]
        cells += [f"{ratio(*pair):.2f}x" for pair in (times, rates[::-1], reads[::-1])]
        rows.append(" | ".join(cells))
    head = "kernel | heads | TFLOPS, 1 thread | us, 1 thread | us, 2 threads | gain | register ceiling | read ceiling"
    return table(head, rows)


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """The slope and the start of the line with the least sum of squared relative deviations."""
    w = [1 / v**2 for v in y]
    sw, sx, sy = sum(w), sum(map(float.__mul__, w, x)), sum(map(float.__mul__, w, y))
    sxx, sxy = (sum(a * b * c for a, b, c in zip(w, x, z, strict=True)) for z in (x, y))
    slope = (sw * sxy - sx * sy) / (sw * sxx - sx * sx)
    return slope, (sy - slope * sx) / sw


def fit(rounds: list[Round]) -> str:
    rows = []
    keys = [float(n) for n in FIT_LENGTHS]
    for heads in LADDER_HEADS:
        us = [median(each(rounds, f"fit {heads}", "us", seqlen=n)) for n in FIT_LENGTHS]
        slope, start = line(keys, us)
        fitted, mean = [start + slope * n for n in keys], sum(us) / len(us)
        off = max((abs(t / f - 1), n) for t, f, n in zip(us, fitted, FIT_LENGTHS, strict=True))
        left = sum((t - f) ** 2 for t, f in zip(us, fitted, strict=True)) / sum((t - mean) ** 2 for t in us)
        cells = [str(heads), f"{1e3 * slope:.1f}", f"{start:.0f}", f"{1 - left:.4f}", f"{percent(off[0])} at {off[1]}"]
        rows.append(" | ".join([*cells, *(f"{t:.0f}" for t in us)]))
    head = "heads | ns a key | us for none | R2 | largest deviation | " + " | ".join(f"{n} keys" for n in FIT_LENGTHS)
    return table(head, rows)


def keys_of(run: Run, heads: int) -> float:
    """The keys of all sequences, from the operations."""
    row = next(row for row in run["rows"] if row["heads"] == heads)
    return float(row["tflops"] * row["us"] * 1e6 / (2 * heads * (576 + 512)))


def varlen(rounds: list[Round]) -> str:
    rows = []
    for heads in LADDER_HEADS:
        keys = [keys_of(rounds[0][f"lengths {name}"], heads) for name in ("same", "drawn")]
        us = [each(rounds, f"lengths {name}", "us", heads=heads) for name in ("same", "drawn")]
        cost = ratio(us[1], us[0]) * keys[0] / keys[1]
        cells = [str(heads), *(f"{median(t):.0f} us, {n:.0f} keys" for t, n in zip(us, keys, strict=True))]
        rows.append(" | ".join([*cells, f"{cost:.2f}"]))
    return table("heads | all of 4096 | drawn from 2048 to 6144 | a key of the second, in keys of the first", rows)


def machine(rounds: list[Round]) -> str:
    run = rounds[0]["grid 4096"]
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cache = run["ceilings"]["cache_bytes"] >> 20
    return f"{run['threads']} cores of {model[1] if model else run['description']}, {cache} MiB of last-level cache"


def ceilings_seen(rounds: list[Round]) -> str:
    names = [f"grid {n}" for n in LENGTHS] + ["aims 4", "aims 8"]
    ends = []
    for what in ("read_gb_per_s", "multiply_add_tflops"):
        values = [v for name in names for v in ceilings(rounds, name, what)]
        ends.append(f"{min(values):.3g} to {max(values):.3g}")
    return f"{ends[0]} GB/s of reading, {ends[1]} TFLOPS of AMX-BF16 over the runs without `--kernel` and `--threads`"


SECTIONS = (
    (
        "Ladder",
        ladder,
        "Batch 4, 4096 keys; each kernel beside the ceiling of its own instruction set. "
        '"gain" is over the row above. `flashmla bench --kernel K --batch 4 --heads 16,128 --seqlen 4096`',
    ),
    (
        "Share of the floor over heads and lengths",
        grid,
        "Batch 4, the kernel that the library chooses. `flashmla bench --batch 4 --heads 1,2,... --seqlen N`",
    ),
    (
        "Aims",
        aims,
        "`flashmla bench --batch 4 --heads 64,128 --seqlen 4096,16384`, "
        "`flashmla bench --batch 8 --heads 1,16 --seqlen 4096,32768`, "
        "`flashmla bench --batch 1 --heads 16 --seqlen 128`; two lines are the ladder's",
    ),
    (
        "Threads",
        scaling,
        "Batch 4, 4096 keys; the last two columns are what the ceilings gain by the second thread. "
        "`flashmla bench --kernel K --threads N --batch 4 --heads H --seqlen 4096`",
    ),
    (
        "Time over length",
        fit,
        "One sequence, us; a line of least relative deviations. "
        "`flashmla bench --batch 1 --heads H --seqlen 1024,2048,...`",
    ),
    (
        "Sequences of different lengths",
        varlen,
        f"`flashmla bench --batch {VARLEN_BATCH} --heads 16,128 --seqlen 4096`, and with `--varlen`",
    ),
)


def report(rounds: list[Round], drawn: bool) -> str:
    parts = [f"{machine(rounds)}; BF16, pages of 64; median of rounds: {len(rounds)}. {ceilings_seen(rounds)}."]
    for title, make, how in SECTIONS:
        parts += [f"### {title}", f"{how}.", make(rounds)]
        if make is grid and drawn:
            parts.append(f"![Share of the floor over heads, a line for each length]({PLOT.name})")
    return "\n\n".join(parts) + "\n"


def draw(rounds: list[Round]) -> bool:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("No plot: this Python has no matplotlib.")
        return False
    figure, axes = pyplot.subplots(figsize=(8, 5.2), layout="constrained")
    for length in LENGTHS:
        shares = [100 * median(each(rounds, f"grid {length}", "share_of_floor", heads=h)) for h in HEADS]
        axes.plot(HEADS, shares, marker="o", label=f"{length} keys")
    axes.set_xscale("log", base=2)
    axes.set_xticks(HEADS, labels=map(str, HEADS))
    axes.set(ylim=(0, 119), xlabel="query heads", ylabel="share of the floor, %")
    axes.set_title("flashmla on the CPU: share of min(AMX, DRAM), batch 4, BF16")
    axes.grid(alpha=0.3)
    axes.axhline(100, color="black", linewidth=1)
    axes.legend()
    caption = (
        f"{machine(rounds)}; median of rounds: {len(rounds)}\nflashmla bench --batch 4 --heads 1,2,...,128 --seqlen N"
    )
    figure.supxlabel(caption, fontsize=8, color="dimgray")
    figure.savefig(PLOT, dpi=130)
    return True


def update_document(text: str) -> None:
    begin, end = "<!-- figures -->\n", "<!-- end of figures -->\n"
    before, rest = DOCUMENT.read_text().split(begin)
    DOCUMENT.write_text(before + begin + text + end + rest.split(end)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build/flashmla"), help="a command, words before it allowed")
    parser.add_argument("--rounds", type=int, default=5, help="a round takes about 4 minutes [5]")
    parser.add_argument("--rows", type=Path, help="a file: measured rows are kept there, and taken from there")
    parser.add_argument("--update", action="store_true", help="write the tables into docs/cpu-kernels.md")
    options = parser.parse_args()
    rounds: list[Round]
    if options.rows is not None and options.rows.exists():
        rounds = json.loads(options.rows.read_text())
    else:
        rounds = measure(options.program, options.rounds, options.rows)
    text = report(rounds, draw(rounds) or PLOT.exists())
    print(text)
    if options.update:
        update_document(text)


if __name__ == "__main__":
    main()
