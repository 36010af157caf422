#!/usr/bin/env python3
"""A GPU's steps beside FlashMLA's: from bench/results/, the plot docs/gpu-beside-flashmla.png and a table.

usage: gpu_figures.py [RESULTS]; needs matplotlib
"""

import json
import sys
from pathlib import Path
from statistics import geometric_mean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results/h200-flashmla.json"
PLOT = ROOT / "docs/gpu-beside-flashmla.png"
# Of a row: its name in the results, in the plot, and its mark.
CONTENDERS = (
    ("flashmla_with_metadata", "FlashMLA, metadata kernel included", "x"),
    ("flashmla", "FlashMLA, metadata made before", "+"),
    ("ours", "flashmla in C, everything included", "o"),
)


def main() -> None:
    results = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS).read_text())
    rows = sorted(results["rows"], key=lambda row: row["ours"]["us"] / row["floor_us"])

    print("| batch x heads x q x keys | us | FlashMLA | and its metadata | floor |\n|---|---|---|---|---|")
    for row in results["rows"]:
        figures = [row[name]["us"] for name in ("ours", "flashmla", "flashmla_with_metadata")]
        print(f"| {row['shape']} | {' | '.join(f'{us:.1f}' for us in (*figures, row['floor_us']))} |")
    for name, title, _ in CONTENDERS[:2]:
        ratio = geometric_mean(row[name]["us"] / row["ours"]["us"] for row in rows)
        print(f"\nGeometric mean of the speed over {title}: {ratio:.2f}")

    figure, axes = pyplot.subplots(figsize=(8, 10), layout="constrained")
    for name, title, mark in CONTENDERS:
        axes.plot([row[name]["us"] / row["floor_us"] for row in rows], range(len(rows)), mark, label=title, alpha=0.8)
    axes.set_yticks(range(len(rows)), [row["shape"] for row in rows], fontsize=7)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 3, 5, 10, 15], ["1", "2", "3", "5", "10", "15"])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"time of a decode step, in times of reading its keys ({results['device']})")
    axes.set_ylabel("batch x heads x query tokens x keys")
    axes.legend(loc="lower right")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
