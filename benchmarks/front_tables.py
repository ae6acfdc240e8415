"""The tables of the fronts, from results/front-*.json."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import fmean

from pages import RESULTS, load, percent, provenance, table

SAME_DB = 100.0
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
    )
    budgets = sorted({row["keep"] for row in record["rows"]} - {1.0}, reverse=True)
    rows = [front_row([row for row in record["rows"] if row["keep"] == budget], 50 * budget) for budget in budgets]
    count = f"{len(record['seeds'])} images a row; {searches(record)}; "
    return table(heads, rows) + "\n\n" + count + provenance(record)


def searches(record: dict) -> str:
    """How many searches the means and ranges are of."""
    ours = [(row["group"], row["keep"]) for row in record["rows"] if row["group"].startswith("Secateur")]
    counts = sorted({ours.count(one) for one in ours})
    many = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"means and ranges of {many} searches with other calibration noise"


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
        kept(first) if first else "–",
    )


def nearest(rows: list[dict], key: str) -> str:
    """The mean and the group of the rival that is nearest, and the range of its searches where it has several."""
    means = by_group(rows, key)
    best = max(means, key=lambda group: fmean(means[group]), default=None)
    return f"{fmean(means[best]):.1f} dB{ends(means[best])}, {best}" if best else "–"


def by_group(rows: list[dict], key: str) -> dict[str, list[float]]:
    """The mean of each row that was measured, by group: one for each search."""
    means: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key):
            means.setdefault(row["group"], []).append(row[key]["mean"])
    return means


def ends(means: list[float]) -> str:
    """The range of several searches."""
    return f" ({min(means):.1f}–{max(means):.1f})" if len(means) > 1 else ""


def spread_of(rows: list[dict], rivals: list[dict], key: str) -> str:
    """The mean over the searches, bold where no rival is nearer in the mean, and their range where there are several."""
    means = [row[key]["mean"] for row in rows]
    if not means:
        return "–"
    mean, rival = fmean(means), max(map(fmean, by_group(rivals, key).values()), default=0.0)
    return (f"**{mean:.1f} dB**" if mean >= rival else f"{mean:.1f} dB") + ends(means)


def by_solver(records: dict[str, dict], cell: Callable[[dict, str, float], str]) -> str:
    """A table of what `cell` says of each record, solver and budget."""
    names = [(pipe, solver) for pipe in records for solver in SOLVERS]
    budgets = sorted({row["keep"] for record in records.values() for row in record["rows"]} - {1.0}, reverse=True)
    heads = ("dense calls", *(f"{pipe}, {solver}" for pipe, solver in names))
    rows = [(f"{50 * budget:g}", *(cell(records[pipe], solver, budget) for pipe, solver in names)) for budget in budgets]
    return table(heads, rows)


def shares(records: dict[str, dict]) -> str:
    """Of each budget and solver: which share of the saved MACs comes from calls that are held or not made."""
    return by_solver(records, share)


def share(record: dict, solver: str, budget: float) -> str:
    """Of one budget and solver, the mean of its searches and their range."""
    found = [r["saved_by_calls"] for r in record["rows"] if r["group"] == f"Secateur, {solver}" and r["keep"] == budget]
    if not found:
        return "–"
    ends = f" ({100 * min(found):.1f}–{100 * max(found):.1f})" if min(found) < max(found) else ""
    return f"{100 * sum(found) / len(found):.1f} %{ends}"


def added(records: dict[str, dict]) -> str:
    """Of each budget and solver: the stock schedule's PSNR on the calibration images, and what each stage added to it."""
    return by_solver(records, gains)


def gains(record: dict, solver: str, budget: float) -> str:
    """Of one budget and solver, what the first stage has and each later one adds, in the mean of the searches."""
    found = [r["stages"] for r in record["rows"] if r["group"] == f"Secateur, {solver}" and r["keep"] == budget]
    if not found:
        return "–"
    means = [fmean(stages[name]["psnr_db"] for stages in found) for name in found[0]]
    return " + ".join(f"{gain:.1f}" for gain in (means[0], *(b - a for a, b in pairwise(means)))) + " dB"


def losses(records: dict[str, dict], keep: float = 0.2) -> str:
    """What a fifth of the MACs costs in accuracy, and how much faster it is."""
    share = "÷ MACs reduction of the denoiser (of the whole pipeline)"
    heads = ("", "prompt accuracy (95 %)", "MACs kept (with attention)", "faster, one image (quartiles)", share,
             "faster, a batch of 8 (quartiles)", share)  # fmt: skip
    rows = []
    for pipe, record in records.items():
        dense = next(row for row in record["rows"] if row["group"] == "dense")
        rows.append((f"{pipe}, dense", percent(dense["accuracy"]), "100 % (100 %)", "1", "", "1", ""))
        ours = [row for row in record["rows"] if row["group"].startswith("Secateur") and row["keep"] == keep]
        ours += [row for row in record["rows"] if row["name"] == f"DDIM, leading, {50 * keep:g} steps"]
        speed_of = partial(speed, dense=dense, outside=record.get("outside_macs"))
        for row in ours:
            told = percent(row["accuracy"]), kept(row)
            rows.append((f"{pipe}, {row['name']}", *told, *speed_of(row), *speed_of(row, "speedup_batch")))
            if "folded_speedup" in row:
                speeds = *speed_of(row, "folded_speedup"), *speed_of(row, "folded_speedup_batch")
                rows.append((f"{pipe}, {row['name']}, folded", *told, *speeds))
    return "\n\n".join([table(heads, rows), *(limit(pipe, record, keep) for pipe, record in records.items())])


def limit(pipe: str, record: dict, keep: float) -> str:
    """How much faster a schedule can be, for what it does not make cheaper."""
    if "outside" not in record:
        return ""
    rest, outside = record["outside"]["median"], record.get("outside_macs", 0)
    dense = next(row for row in record["rows"] if row["group"] == "dense")["macs_attention"]
    return (
        f"On {pipe} {100 * rest:.1f} % of one dense image's time (quartiles {100 * record['outside']['low']:.1f}–"
        f"{100 * record['outside']['high']:.1f}) is not the denoiser's or goes into holding: "
        f"so about {1 / (rest + keep * (1 - rest)):.2f}× is to be had of {1 / keep:g}×. Of MACs, "
        f"{(dense + outside) / (keep * dense + outside):.2f}× with the {outside / 1e6:.0f} M of decoder and text encoder."
    )


def kept(row: dict) -> str:
    """MACs of a row by both conventions."""
    return f"{100 * row['keep_linear']:.1f} % ({100 * row['keep_attention']:.1f} %)"


def speed(row: dict, key: str = "speedup", *, dense: dict | None = None, outside: int | None = None) -> tuple[str, str]:
    """How much faster a row is, and how that compares with its MACs: the denoiser's, and all that the pipeline makes.

    outside: MACs of an image that are not the denoiser's, attention counted, which every row has.
    """
    if key not in row:
        return "–", "–"
    faster, said = row[key]["median"], "{median:.2f}× ({low:.2f}–{high:.2f})".format_map(row[key])
    if dense is None or outside is None:
        return said, f"{faster * row['keep_linear']:.2f}"
    fewer = (dense["macs_attention"] + outside) / (row["macs_attention"] + outside)
    return said, f"{faster * row['keep_linear']:.2f} ({faster / fewer:.2f})"


def whole(record: dict) -> str:
    """Every row that was measured, budget by budget, those nearest to the dense images first."""
    heads = (
        "",
        "MACs kept (with attention)",
        "PSNR to dense (95 %)",
        "SSIM to dense",
        "PSNR to converged (95 %)",
        "prompt accuracy (95 %)",
        "Fréchet distance",
        "faster (quartiles)",
    )
    parts = []
    for keep in sorted({row["keep"] for row in record["rows"]}, reverse=True):
        rows = [row for row in record["rows"] if row["keep"] == keep]
        rows.sort(key=lambda row: row["psnr_db"]["mean"] if row["psnr_db"] else 0.0, reverse=True)
        parts += [f"### {50 * keep:g} dense calls\n", table(heads, [measured(row) for row in rows]) + "\n"]
    return "\n".join([*parts, f"{len(record['seeds'])} images a row, " + provenance(record)])


def measured(row: dict) -> tuple[str, ...]:
    """One row of the front, everything that was measured of it."""
    return (
        row["name"],
        kept(row),
        decibels(row["psnr_db"]),
        f"{row['ssim']['mean']:.3f}" if row.get("ssim") else "–",
        decibels(row["converged_psnr_db"]),
        percent(row["accuracy"]),
        f"{row['frechet']:.2f}",
        speed(row)[0],
    )


def decibels(found: dict | None) -> str:
    """A mean with its interval; of images that differ by rounding alone, that they are the same."""
    if found is None or found["mean"] > SAME_DB:
        return "the same"
    return "{:.1f} dB ({:.1f}–{:.1f})".format(found["mean"], *found["ci95"])


def sections() -> dict[str, str]:
    """What stands between the pages' markers."""
    names = [name for name in ("emoji-sd", "emoji-dit") if (RESULTS / f"front-{name}.json").exists()]
    records = {name: load(f"front-{name}") for name in names}
    tables = {f"front-{name}": front_table(record) for name, record in records.items()}
    tables |= {f"front-whole-{name}": whole(record) for name, record in records.items()}
    return tables | {"front-shares": shares(records), "front-stages": added(records), "front-losses": losses(records)}
