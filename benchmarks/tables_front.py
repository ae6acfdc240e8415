"""The tables of the fronts: every rival and what the search finds, at each budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import fmean

from names import library
from tables import PIPES, Record, Row, Table, budgets, by_group, decibels, provenance, shown, spread

SOLVERS = ("DDIM", "DPM-Solver++", "UniPC")
FRONTS = " ".join(f"front-{pipe}" for pipe in PIPES)
LIMIT = (
    "On {pipe} {outside.median:.1f %} of one dense image's time (quartiles {outside.low:.1f (%)}–{outside.high:.1f (%)}) is "
    "not the denoiser's or goes into holding: so about {time:.2f}× is to be had of {budget:g}×. Of MACs, {macs:.2f}× with the "
    "{outside_macs:.0f M} of decoder and text encoder."
)
FRONT = """dense calls = {calls:g} | nearest rival to the dense images = {psnr_db.rival} | Secateur, DDIM = {psnr_db.DDIM}
    | nearest rival to the converged images = {converged_psnr_db.rival} | the same DDIM = {converged_psnr_db.DDIM}
    | Secateur, DPM-Solver++ = {converged_psnr_db.DPM-Solver++} | Secateur, UniPC = {converged_psnr_db.UniPC}
    | prompt accuracy of the three (dense {dense.mean:.1f %}) = {right} % | MACs kept, DDIM (with attention) = {KEPT}"""
WHOLE = """= {name} | MACs kept (with attention) = {KEPT} | PSNR to dense (95 %) = {near} | SSIM to dense = {ssim.mean:.3f}
    | PSNR to converged (95 %) = {converged} | prompt accuracy (95 %) = {RIGHT} | Fréchet distance = {frechet:.2f}
    | faster (quartiles) = {FASTER}"""
LOSSES = """= {name} | prompt accuracy (95 %) = {RIGHT} | MACs kept (with attention) = {kept}
    | faster, one image (quartiles) = {one.0} | ÷ MACs reduction of the denoiser (of the whole pipeline) = {one.1}
    | faster, a batch of 8 (quartiles) = {eight.0} | ÷ MACs reduction of the denoiser (of the whole pipeline) = {eight.1}"""


def front(record: Record) -> Iterator[Row]:
    """Of each budget: the rivals nearest to the dense and to the converged images, and what the search finds."""
    for keep in budgets(record):
        at = [row for row in record["rows"] if row["keep"] == keep]
        right = by_group(at, "accuracy")
        yield {
            **next(row for row in at if row["group"] == "Secateur, DDIM"),
            "calls": 50 * keep,
            "dense": record["rows"][0]["accuracy"],
            "right": ", ".join(f"{100 * fmean(right[f'Secateur, {solver}']):.1f}" for solver in SOLVERS),
            **{key: against_rivals(by_group(at, key)) for key in ("psnr_db", "converged_psnr_db")},
        }


def against_rivals(groups: dict[str, list[float]]) -> dict[str, str]:
    """The rival that is nearest in the mean, and the searches under each solver: bold if no rival is nearer."""
    rival = max((group for group in groups if not group.startswith("Secateur")), key=lambda group: fmean(groups[group]))
    ours = {solver: groups[f"Secateur, {solver}"] for solver in SOLVERS}
    forms = {solver: "**{:.1f} dB**" if fmean(ours[solver]) >= fmean(groups[rival]) else "{:.1f} dB" for solver in SOLVERS}
    return {"rival": f"{spread(groups[rival])}, {rival}", **{name: spread(ours[name], forms[name]) for name in SOLVERS}}


def searched(*records: Record) -> str:
    count, _, source = provenance(*records).partition(", ")
    searches = len(records[0]["options"]["search_seeds"])
    return f"{count}; means and ranges of {searches} searches with other calibration noise; {source}"


def by_solver(cell: Callable[[list[Row]], str]) -> Table:
    """What `cell` says of the searches of each pipe, solver and budget."""

    def rows(*records: Record) -> Iterator[Row]:
        for keep in budgets(records[0]):
            row = {"calls": 50 * keep}
            for record in records:
                for solver in SOLVERS:
                    fits = [r for r in record["rows"] if (r["group"], r["keep"]) == (f"Secateur, {solver}", keep)]
                    row[f"{record['pipe']}, {solver}"] = cell(fits)
            yield row

    heads = (f"{pipe}, {solver}" for pipe in PIPES for solver in SOLVERS)
    columns = " | ".join(["dense calls = {calls:g}", *(f"{head} = {{{head}}}" for head in heads)])
    return Table(FRONTS, columns, rows=rows, after=lambda *records: "")


def saved_by_calls(rows: list[Row]) -> str:
    """The share of the saved MACs that comes from calls which are held or not made."""
    shares = [100 * row["saved_by_calls"] for row in rows]
    return spread(shares if min(shares) < max(shares) else shares[:1], "{:.1f} %")


def gained_by_stages(rows: list[Row]) -> str:
    """What the first stage has and each later one adds, in the mean of the searches."""
    reached = [fmean(row["stages"][name]["psnr_db"] for row in rows) for name in rows[0]["stages"]]
    return " + ".join(f"{gain:.1f}" for gain in (reached[0], *(b - a for a, b in pairwise(reached)))) + " dB"


def losses(*records: Record, keep: float = 0.2) -> Iterator[Row]:
    """What a fifth of the MACs costs in accuracy, and how much faster it is; folded too if that was timed."""
    for record in records:
        pipe, (dense, *others), outside = record["pipe"], record["rows"], record["outside_macs"]
        yield dense | {"name": f"{pipe}, dense", "kept": "100 % (100 %)", "one": ("1", ""), "eight": ("1", "")}
        searched = [row for row in others if row["group"].startswith("Secateur") and row["keep"] == keep]
        plain = [row for row in others if library(row["name"]) == f"DDIM leading, {50 * keep:g} steps"]
        for row in searched + plain:
            fewer = (dense["macs_attention"] + outside) / (row["macs_attention"] + outside)
            for kind, more in (("", ""), ("folded_", ", folded")):
                one, eight = (speed(row, f"{kind}speedup{many}", fewer) for many in ("", "_batch"))
                if not kind or one:
                    yield row | {
                        "name": f"{pipe}, {row['name']}{more}",
                        "kept": shown("{KEPT}", row),
                        "one": one,
                        "eight": eight,
                    }


def speed(row: Row, key: str, fewer: float) -> tuple[str, str] | None:
    """How much faster a row is, and how that compares with its MACs: the denoiser's, and the whole pipeline's."""
    if key not in row:
        return None
    faster = row[key]["median"]
    return shown("{FASTER}", {"speedup": row[key]}), f"{faster * row['keep_linear']:.2f} ({faster / fewer:.2f})"


def limits(*records: Record, keep: float = 0.2) -> str:
    """How much faster a schedule can be, for what it does not make cheaper."""
    texts = []
    for record in records:
        time, outside, dense = record["outside"]["median"], record["outside_macs"], record["rows"][0]["macs_attention"]
        macs = (dense + outside) / (keep * dense + outside)
        texts.append(shown(LIMIT, record | {"time": 1 / (time + keep * (1 - time)), "budget": 1 / keep, "macs": macs}))
    return "\n\n".join(texts)


def whole(record: Record) -> dict[str, list[Row]]:
    """Every row that was measured, budget by budget, those nearest to the dense images first."""
    rows = [row | {"near": decibels(row["psnr_db"]), "converged": decibels(row["converged_psnr_db"])} for row in record["rows"]]
    rows.sort(key=lambda row: row["psnr_db"]["mean"] if row["psnr_db"] else 0.0, reverse=True)
    return {f"### {50 * keep:g} dense calls": [r for r in rows if r["keep"] == keep] for keep in (1.0, *budgets(record))}


TABLES = {
    **{f"front-{pipe}": Table(f"front-{pipe}", FRONT, rows=front, after=searched) for pipe in PIPES},
    **{f"front-whole-{pipe}": Table(f"front-{pipe}", WHOLE, rows=whole) for pipe in PIPES},
    "front-shares": by_solver(saved_by_calls),
    "front-stages": by_solver(gained_by_stages),
    "front-losses": Table(FRONTS, LOSSES, rows=losses, after=limits),
}
