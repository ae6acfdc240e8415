"""The tables of the fronts: every rival and what the search finds, at each budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import fmean, mean

from names import library
from tables import (
    FASTER,
    KEPT,
    Cell,
    Record,
    Row,
    Text,
    accuracy,
    budgets,
    decibels,
    ends,
    markdown,
    means,
    provenance,
    shown,
    table,
)

SOLVERS = {"DDIM": "psnr_db", "DPM-Solver++": "converged_psnr_db", "UniPC": "converged_psnr_db"}  # what each was searched for
PIPES = ("emoji-sd", "emoji-dit")
FRONTS = ("front-emoji-sd", "front-emoji-dit")


def dense_of(record: Record) -> Row:
    return next(row for row in record["rows"] if row["group"] == "dense")


def ours(record: Record, solver: str, keep: float) -> list[Row]:
    """What the searches under a solver found at a budget."""
    return [row for row in record["rows"] if row["group"] == f"Secateur, {solver}" and row["keep"] == keep]


def front(record: Record) -> str:
    """Of each budget: the rivals nearest to the dense and to the converged images, and what the search finds."""
    right = f"prompt accuracy of the three (dense {100 * dense_of(record)['accuracy']['mean']:.1f} %)"
    columns: dict[str, Cell] = {
        "dense calls": lambda at: f"{50 * at['keep']:g}",
        "nearest rival to the dense images": lambda at: nearest_rival(at["rivals"], "psnr_db"),
        "Secateur, DDIM": against("DDIM", "psnr_db"),
        "nearest rival to the converged images": lambda at: nearest_rival(at["rivals"], "converged_psnr_db"),
        "the same DDIM": against("DDIM", "converged_psnr_db"),
        "Secateur, DPM-Solver++": against("DPM-Solver++", "converged_psnr_db"),
        "Secateur, UniPC": against("UniPC", "converged_psnr_db"),
        right: lambda at: ", ".join(f"{100 * mean(means(at[s], 'accuracy')):.1f}" if at[s] else "–" for s in SOLVERS) + " %",
        "MACs kept, DDIM (with attention)": lambda at: shown(KEPT, at["DDIM"][0] if at["DDIM"] else {}),
    }
    rows = []
    for keep in budgets(record):
        rivals = [row for row in record["rows"] if row["keep"] == keep and not row["group"].startswith("Secateur")]
        rows.append({"keep": keep, "rivals": rivals, **{solver: ours(record, solver, keep) for solver in SOLVERS}})
    counts = sorted({len(at[solver]) for at in rows for solver in SOLVERS} - {0})
    several = f"means and ranges of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} searches"
    count, _, source = provenance(record).partition(", ")
    return f"{table(columns, rows)}\n\n{count}; {several} with other calibration noise; {source}"


def by_group(rows: Iterable[Row], key: str) -> dict[str, list[float]]:
    """The mean of each row that was measured, by group: one for each search."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key):
            found.setdefault(row["group"], []).append(row[key]["mean"])
    return found


def nearest_rival(rows: list[Row], key: str) -> str:
    """The rival group that is nearest in the mean, and the range of its searches."""
    found = by_group(rows, key)
    best = max(found, key=lambda group: fmean(found[group]), default=None)
    return f"{fmean(found[best]):.1f} dB{ends(found[best])}, {best}" if best else "–"


def against(solver: str, key: str) -> Cell:
    """The mean over the searches and their range; bold if no rival is nearer in the mean."""

    def cell(at: Row) -> str:
        if not (values := means(at[solver], key)):
            return "–"
        rival = max(map(fmean, by_group(at["rivals"], SOLVERS[solver] if solver != "DDIM" else key).values()), default=0.0)
        text = f"{fmean(values):.1f} dB"
        return (f"**{text}**" if fmean(values) >= rival else text) + ends(values)

    return cell


def by_solver(cell: Callable[[list[Row]], str]) -> Callable[..., str]:
    """A table of what `cell` says of the searches of each pipe, solver and budget."""

    def text(*records: Record) -> str:
        columns = {
            f"{record['pipe']}, {solver}": lambda at, r=record, s=solver: (
                cell(found) if (found := ours(r, s, at["keep"])) else "–"
            )
            for record in records
            for solver in SOLVERS
        }
        budget: dict[str, Cell] = {"dense calls": lambda at: f"{50 * at['keep']:g}"}
        return table(budget | columns, [{"keep": keep} for keep in budgets(*records)])

    return text


def saved_by_calls(rows: list[Row]) -> str:
    """The share of the saved MACs that comes from calls which are held or not made."""
    shares = [100 * row["saved_by_calls"] for row in rows]
    return f"{mean(shares):.1f} %" + (ends(shares) if min(shares) < max(shares) else "")


def gained_by_stages(rows: list[Row]) -> str:
    """What the first stage has and each later one adds, in the mean of the searches."""
    reached = [fmean(row["stages"][name]["psnr_db"] for row in rows) for name in rows[0]["stages"]]
    return " + ".join(f"{gain:.1f}" for gain in (reached[0], *(b - a for a, b in pairwise(reached)))) + " dB"


def losses(*records: Record, keep: float = 0.2) -> str:
    """What a fifth of the MACs costs in accuracy, and how much faster it is."""
    share = "÷ MACs reduction of the denoiser (of the whole pipeline)"
    heads = ("", "prompt accuracy (95 %)", "MACs kept (with attention)", "faster, one image (quartiles)", share,
             "faster, a batch of 8 (quartiles)", share)  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for record in records:
        dense, pipe = dense_of(record), record["pipe"]
        rows.append((f"{pipe}, dense", accuracy(dense), "100 % (100 %)", "1", "", "1", ""))
        searched = [row for row in record["rows"] if row["group"].startswith("Secateur") and row["keep"] == keep]
        plain = [row for row in record["rows"] if library(row["name"]) == f"DDIM leading, {50 * keep:g} steps"]
        for row in searched + plain:
            for kind, more in (("", ""), ("folded_", ", folded")):
                if not kind or "folded_speedup" in row:
                    speeds = (speed(record, row, f"{kind}speedup{many}") for many in ("", "_batch"))
                    rows.append((f"{pipe}, {row['name']}{more}", accuracy(row), shown(KEPT, row), *sum(speeds, ())))
    return "\n\n".join([markdown(heads, rows), *(limit(record, keep) for record in records)])


def speed(record: Record, row: Row, key: str) -> tuple[str, str]:
    """How much faster a row is, and how that compares with its MACs: the denoiser's, and the whole pipeline's."""
    if key not in row:
        return "–", "–"
    faster, text = row[key]["median"], "{median:.2f}× ({low:.2f}–{high:.2f})".format_map(row[key])
    if (outside := record.get("outside_macs")) is None:
        return text, f"{faster * row['keep_linear']:.2f}"
    fewer = (dense_of(record)["macs_attention"] + outside) / (row["macs_attention"] + outside)
    return text, f"{faster * row['keep_linear']:.2f} ({faster / fewer:.2f})"


def limit(record: Record, keep: float) -> str:
    """How much faster a schedule can be, for what it does not make cheaper."""
    if "outside" not in record:
        return ""
    time, outside, dense = record["outside"], record.get("outside_macs", 0), dense_of(record)["macs_attention"]
    return (
        f"On {record['pipe']} {100 * time['median']:.1f} % of one dense image's time (quartiles {100 * time['low']:.1f}–"
        f"{100 * time['high']:.1f}) is not the denoiser's or goes into holding: "
        f"so about {1 / (time['median'] + keep * (1 - time['median'])):.2f}× is to be had of {1 / keep:g}×. Of MACs, "
        f"{(dense + outside) / (keep * dense + outside):.2f}× with the {outside / 1e6:.0f} M of decoder and text encoder."
    )


WHOLE: dict[str, Cell] = {
    "": "{name}",
    "MACs kept (with attention)": KEPT,
    "PSNR to dense (95 %)": lambda row: decibels(row["psnr_db"]),
    "SSIM to dense": "{ssim.mean:.3f}",
    "PSNR to converged (95 %)": lambda row: decibels(row["converged_psnr_db"]),
    "prompt accuracy (95 %)": accuracy,
    "Fréchet distance": "{frechet:.2f}",
    "faster (quartiles)": FASTER,
}


def whole(record: Record) -> str:
    """Every row that was measured, budget by budget, those nearest to the dense images first."""
    parts = []
    for keep in (1.0, *budgets(record)):
        rows = [row for row in record["rows"] if row["keep"] == keep]
        rows.sort(key=lambda row: row["psnr_db"]["mean"] if row["psnr_db"] else 0.0, reverse=True)
        parts.append(f"### {50 * keep:g} dense calls\n\n{table(WHOLE, rows)}\n\n")
    return "".join(parts) + provenance(record)


TABLES: dict[str, Text] = {
    **{f"front-{pipe}": Text((f"front-{pipe}",), front) for pipe in PIPES},
    **{f"front-whole-{pipe}": Text((f"front-{pipe}",), whole) for pipe in PIPES},
    "front-shares": Text(FRONTS, by_solver(saved_by_calls)),
    "front-stages": Text(FRONTS, by_solver(gained_by_stages)),
    "front-losses": Text(FRONTS, losses),
}
