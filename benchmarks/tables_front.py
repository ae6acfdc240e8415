"""The tables of the fronts: every rival and what the search finds, at each budget."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean

from names import library
from tables import PIPES, Record, Row, all_rows, budgets, by_group, provenance, shown, tables

SOLVERS = ("DDIM", "DPM-Solver++", "UniPC")
FRONTS = tuple(f"front-{pipe}" for pipe in PIPES)
LIMIT = (
    "On {pipe} {outside.median:.1f %} of one dense image's time (quartiles {outside.low:.1f (%)}–{outside.high:.1f (%)}) is "
    "not the denoiser's or goes into holding: so about {time:.2f}× is to be had of {budget:g}×. Of MACs, {macs:.2f}× with the "
    "{outside_macs:.0f M} of decoder and text encoder."
)


def front(record: Record) -> Iterator[Row]:
    """Of each budget: the rivals nearest to the dense and to the converged images, and what the search finds."""
    for keep in budgets(record):
        at = [row for row in record["rows"] if row["keep"] == keep]
        first, right = next(row for row in at if row["group"] == "Secateur, DDIM"), by_group(at, "accuracy")
        yield first | {
            "calls": 50 * keep,
            "dense": record["rows"][0]["accuracy"],
            "right": [fmean(right[f"Secateur, {solver}"]) for solver in SOLVERS],
            **{key: nearest(by_group(at, key)) for key in ("psnr_db", "converged_psnr_db")},
        }


def nearest(groups: dict[str, list[float]]) -> dict[str, str]:
    """The rival that is nearest in the mean, and the searches under each solver: bold if no rival is nearer."""
    rival = max((group for group in groups if not group.startswith("Secateur")), key=lambda group: fmean(groups[group]))
    texts = {"rival": shown("{values:range.1f dB}", {"values": groups[rival]}) + f", {rival}"}
    for solver in SOLVERS:
        mean, _, ends = shown("{values:range.1f dB}", {"values": groups[f"Secateur, {solver}"]}).partition(" (")
        bold = "**" if fmean(groups[f"Secateur, {solver}"]) >= fmean(groups[rival]) else ""
        texts[solver] = f"{bold}{mean}{bold} ({ends}"
    return texts


def searched(record: Record) -> str:
    count, _, source = provenance(record).partition(", ")
    searches = len(record["options"]["search_seeds"])
    return f"{count}; means and ranges of {searches} searches with other calibration noise; {source}"


def by_solver(*records: Record) -> Iterator[Row]:
    """Of each budget, pipe and solver: the share of the saved MACs that comes from whole calls, and what each stage adds."""
    for keep in budgets(records[0]):
        ours = [row for row in all_rows(*records) if row["keep"] == keep and row["group"].startswith("Secateur")]
        row = {"calls": 50 * keep, "saved": {}, "gained": {}}
        for name in dict.fromkeys(f"{row['pipe']}, {row['group'].removeprefix('Secateur, ')}" for row in ours):
            found = [row for row in ours if f"{row['pipe']}, {row['group']}" == name.replace(", ", ", Secateur, ")]
            saved, stages = [one["saved_by_calls"] for one in found], [one["stages"] for one in found]
            reached = [fmean(stage[key]["psnr_db"] for stage in stages) for key in stages[0]]
            row["saved"][name] = saved if min(saved) < max(saved) else saved[:1]
            row["gained"][name] = " + ".join(f"{gain:.1f}" for gain in (reached[0], *(b - a for a, b in pairwise(reached))))
        yield row


def losses(*records: Record, keep: float = 0.2) -> Iterator[Row]:
    """What a fifth of the MACs costs in accuracy, and how much faster it is; folded too if that was timed."""
    for record in records:
        pipe, (dense, *others), outside = record["pipe"], record["rows"], record["outside_macs"]
        yield dense | {"name": f"{pipe}, dense", "kept": "100 % (100 %)", "one": ("1", ""), "eight": ("1", "")}
        ours = [row for row in others if row["group"].startswith("Secateur") and row["keep"] == keep]
        plain = [row for row in others if library(row["name"]) == f"DDIM leading, {50 * keep:g} steps"]
        for row in ours + plain:
            fewer = (dense["macs_attention"] + outside) / (row["macs_attention"] + outside)
            for kind, more in (("", ""), ("folded_", ", folded")):
                if f"{kind}speedup" in row:
                    times = {
                        name: speed(row, f"{kind}speedup{many}", fewer) for name, many in (("one", ""), ("eight", "_batch"))
                    }
                    yield row | {"name": f"{pipe}, {row['name']}{more}", "kept": shown("{KEPT}", row), **times}


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
    rows = sorted(record["rows"], key=lambda row: row["psnr_db"]["mean"] if row["psnr_db"] else 0.0, reverse=True)
    return {f"### {50 * keep:g} dense calls": [r for r in rows if r["keep"] == keep] for keep in (1.0, *budgets(record))}


COLUMNS = """
front-emoji-sd, front-emoji-dit: dense calls = {calls:g} | nearest rival to the dense images = {psnr_db.rival}
    | Secateur, DDIM = {psnr_db.DDIM} | nearest rival to the converged images = {converged_psnr_db.rival}
    | the same DDIM = {converged_psnr_db.DDIM} | Secateur, DPM-Solver++ = {converged_psnr_db.DPM-Solver++}
    | Secateur, UniPC = {converged_psnr_db.UniPC}
    | prompt accuracy of the three (dense {dense.mean:.1f %}) = {right:.1f (%)} % | MACs kept, DDIM (with attention) = {KEPT}
front-whole-emoji-sd, front-whole-emoji-dit: = {name} | MACs kept (with attention) = {KEPT}
    | PSNR to dense (95 %) = {psnr_db:near} | SSIM to dense = {ssim.mean:.3f}
    | PSNR to converged (95 %) = {converged_psnr_db:near} | prompt accuracy (95 %) = {RIGHT}
    | Fréchet distance = {frechet:.2f} | faster (quartiles) = {FASTER}
front-losses: = {name} | prompt accuracy (95 %) = {RIGHT} | MACs kept (with attention) = {kept}
    | faster, one image (quartiles) = {one.0} | ÷ MACs reduction of the denoiser (of the whole pipeline) = {one.1}
    | faster, a batch of 8 (quartiles) = {eight.0} | ÷ MACs reduction of the denoiser (of the whole pipeline) = {eight.1}
"""
SEARCHES = [f"{pipe}, {solver}" for pipe in PIPES for solver in SOLVERS]
SHARES = " | ".join(f"{name} = {{saved.{name}:range.1f %}}" for name in SEARCHES)
STAGES = " | ".join(f"{name} = {{gained.{name}}} dB" for name in SEARCHES)
TABLES = tables(
    f"{COLUMNS}front-shares: dense calls = {{calls:g}} | {SHARES}\nfront-stages: dense calls = {{calls:g}} | {STAGES}",
    records={f"front-whole-{pipe}": (f"front-{pipe}",) for pipe in PIPES}
    | dict.fromkeys(("front-shares", "front-stages", "front-losses"), FRONTS),
    rows=dict.fromkeys(FRONTS, front)
    | {f"front-whole-{pipe}": whole for pipe in PIPES}
    | {"front-shares": by_solver, "front-stages": by_solver, "front-losses": losses},
    after=dict.fromkeys(FRONTS, searched) | {"front-shares": None, "front-stages": None, "front-losses": limits},
)
