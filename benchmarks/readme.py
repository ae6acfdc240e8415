"""Write the tables of README.md and of the pages in docs/ from results/*.json, between their markers.

python benchmarks/readme.py            rewrites them
python benchmarks/readme.py --check    exit code 1 where one of them does not say what the results say
"""

from __future__ import annotations

import re
import sys

import depth_tables
import front_tables
import recovery_tables
import search_tables
from pages import RESULTS, ROOT, load, percent, provenance, table

PAGES = ROOT / "README.md", ROOT / "docs" / "search.md", ROOT / "docs" / "front.md", ROOT / "docs" / "distil.md"


def comparison(record: dict) -> str:
    """A comparison's rows: cost both ways, time, likeness to dense, prompt accuracy."""
    heads = (
        "",
        "calls",
        "MACs, conv + linear",
        "with attention",
        "s an image",
        "faster",
        "PSNR to dense",
        "prompt accuracy (95 %)",
    )
    rows = [
        (
            row["name"],
            str(row["calls"]),
            f"{row['macs_linear'] / 1e9:.2f} G ({100 * row['keep_linear']:.0f} %)",
            f"{row['macs_attention'] / 1e9:.2f} G ({100 * row['keep_attention']:.0f} %)",
            f"{row['latency_s']['median']:.2f}",
            f"{row['speedup']['median']:.2f}×",
            f"{row['psnr_db']['mean']:.1f} dB" if row["psnr_db"] else "–",
            percent(row["accuracy"]),
        )
        for row in record["rows"]
    ]
    return table(heads, rows) + "\n\n" + provenance(record)


def zoo_table(found: dict) -> str:
    rows = [(f"judge, renders, {name}", str(r["images"]), percent(r)) for name, r in found["judge"].items()]
    rows += [(name, str(r["images"]), percent(r)) for name, r in found["pipelines"].items()]
    return table(("", "images", "right (95 %)"), rows) + "\n\n" + provenance(found)


def runtime_table(record: dict) -> str:
    rows = [
        (
            row["name"],
            f"{100 * row['keep_linear']:.1f} %",
            f"{100 * row['keep_attention']:.1f} %",
            f"{row['latency_s']['median']:.1f}",
            f"{row['speedup']['median']:.2f}× ({row['speedup']['low']:.2f}–{row['speedup']['high']:.2f})",
            f"{row['efficiency']:.2f}",
        )
        for row in record["rows"]
    ]
    heads = ("", "MACs kept, conv + linear", "with attention", "s, 50 calls", "faster (quartiles)", "faster ÷ MACs reduction")
    return f"{record['title']}.\n\n" + table(heads, rows) + "\n\n" + provenance(record)


def paper_table(record: dict) -> str:
    """MACs counted here, in both conventions, beside those that DiP-GO prints, and by which convention they agree."""
    heads = ("", "conv + linear", "with attention", "the paper", "its convention", "off")
    rows = [
        (
            row["name"],
            f"{row['macs_linear'] / 1e12:.2f} T",
            f"{row['macs_attention'] / 1e12:.2f} T",
            row["paper"],
            row["convention"],
            f"{row['off_percent']:+.2f} %".replace("-", "−"),
        )
        for row in record["rows"]
    ]
    return f"{table(heads, rows)}\n\n{provenance(record)}"


def cache_table(record: dict) -> str:
    rows = [
        (row["name"], f"{row['every_output_bytes'] / 2**20:.1f}", f"{row['peak_cached_bytes'] / 2**20:.1f}")
        for row in record["rows"]
    ]
    return table(("", "every block's output, MiB", "freed after the last reader, MiB"), rows) + "\n\n" + provenance(record)


def sections() -> dict[str, str]:
    """What stands between each pair of markers."""
    numbers = [
        "### The zoo\n\nPrompt accuracy: the share of images in which the judge reads just what was asked for.\n",
        zoo_table(load("zoo")),
        "\n### Memory\n\nPeak bytes cached by a schedule, float16, guidance on (batch 2).\n",
        cache_table(load("cache")),
    ]
    numbers += ["\n### The MACs of the paper's tables\n", paper_table(load("paper-macs"))]
    if (RESULTS / "runtime.json").exists():
        numbers += ["\n### Milliseconds for MACs\n", runtime_table(load("runtime"))]
    return {
        "demo": comparison(load("demo/record")),
        "numbers": "\n".join(numbers),
        **front_tables.sections(),
        **search_tables.sections(),
        **depth_tables.sections(),
        **recovery_tables.sections(),
    }


def written(page: str, texts: dict[str, str]) -> str:
    """The page with each text between the markers of its name, where it has them."""
    for name, text in texts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        page = re.sub(pattern, lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
    return page


def main() -> None:
    texts, stale = sections(), []
    for path in PAGES:
        now = path.read_text()
        if (wanted := written(now, texts)) != now:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(wanted)
    if stale and "--check" in sys.argv:
        raise SystemExit(f"found in {' and '.join(stale)} other numbers than in results/: run python benchmarks/readme.py")


if __name__ == "__main__":
    main()
