"""The tables of the fronts, from results/front-*.json."""

from __future__ import annotations

from pages import RESULTS, load, provenance, table

SOLVERS = {"DDIM": "psnr_db", "DPM-Solver++": "converged_psnr_db", "UniPC": "converged_psnr_db"}  # what each was searched for


def front_table(record: dict) -> str:
    """Of each budget: what is nearest to the dense and to the converged images among the rivals, and what the search finds."""
    dense = next(row for row in record["rows"] if row["group"] == "dense")
    heads = (
        "dense calls",
        "nearest rival to the dense images",
        "Secateur, DDIM",
        "nearest rival to the converged images",
        "the same DDIM",
        "Secateur, DPM-Solver++",
        "Secateur, UniPC",
        f"prompt accuracy of the three (dense {100 * dense['accuracy']['mean']:.1f} %)",
        "MACs kept, DDIM (with attention)",
        "faster, DDIM (quartiles)",
    )
    budgets = sorted({row["keep"] for row in record["rows"]} - {1.0}, reverse=True)
    rows = [front_row([row for row in record["rows"] if row["keep"] == budget], 50 * budget) for budget in budgets]
    count = f"{len(record['seeds'])} images a row, "
    return table(heads, rows) + "\n\n" + count + provenance(record)


def front_row(rows: list[dict], calls: float) -> tuple[str, ...]:
    """One budget of the front."""
    found = {solver: [row for row in rows if row["group"] == f"Secateur, {solver}"] for solver in SOLVERS}
    rivals = [row for row in rows if not row["group"].startswith("Secateur")]
    near = {solver: spread_of(of, rivals, SOLVERS[solver]) for solver, of in found.items()}
    right = (f"{100 * sum(r['accuracy']['mean'] for r in of) / len(of):.1f}" if of else "–" for of in found.values())
    first = found["DDIM"][0] if found["DDIM"] else {}
    return (
        f"{calls:g}",
        nearest(rivals, "psnr_db"),
        near["DDIM"],
        nearest(rivals, "converged_psnr_db"),
        spread_of(found["DDIM"], rivals, "converged_psnr_db"),
        near["DPM-Solver++"],
        near["UniPC"],
        ", ".join(right) + " %",
        f"{100 * first['keep_linear']:.1f} % ({100 * first['keep_attention']:.1f} %)" if first else "–",
        "{median:.2f}× ({low:.2f}–{high:.2f})".format_map(first["speedup"]) if "speedup" in first else "–",
    )


def nearest(rows: list[dict], key: str) -> str:
    """The mean and the group of the rival that is nearest."""
    best = max((row for row in rows if row.get(key)), key=lambda row: row[key]["mean"], default=None)
    return f"{best[key]['mean']:.1f} dB, {best['group']}" if best else "–"


def spread_of(rows: list[dict], rivals: list[dict], key: str) -> str:
    """The mean over the searches, bold where no rival is nearer, and their range where there are several."""
    means = [row[key]["mean"] for row in rows]
    if not means:
        return "–"
    mean, rival = sum(means) / len(means), max((row[key]["mean"] for row in rivals if row.get(key)), default=0.0)
    ends = f" ({min(means):.1f}–{max(means):.1f})" if len(means) > 1 else ""
    return (f"**{mean:.1f} dB**" if mean >= rival else f"{mean:.1f} dB") + ends


def sections() -> dict[str, str]:
    """What stands between the pages' markers."""
    names = [name for name in ("emoji-sd", "emoji-dit") if (RESULTS / f"front-{name}.json").exists()]
    return {f"front-{name}": front_table(load(f"front-{name}")) for name in names}
