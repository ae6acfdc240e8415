"""What a record found, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.measuring.columns import (
    Row,
    all_kept,
    centre,
    dense_row,
    is_dense,
    is_own,
    keep,
    percent,
    plain_curve,
    realised,
)
from secateur.measuring.plain_steps import in_words
from secateur.measuring.records import interval

CLOSE = 0.05  # of a budget in MACs: nearer counts as equal


def headline(record: dict[str, Any]) -> str:
    """The finding in a sentence or two, computed from the rows; empty if they hold nothing that can be compared.

    Of rows that print the same figure it names all, or says by which further figure it chose.
    """
    if record.get("plain_steps"):
        return _gain_finding(record)
    rows = [row for row in record["rows"] if not is_dense(row) and row.get("keep_linear")]
    for finding in (_accuracy_finding, _likeness_finding, _speed_finding):
        sentence = finding(rows, dense_row(record))
        if sentence:
            return sentence
    return ""


def _gain_finding(record: dict[str, Any]) -> str:
    """What the found schedule gains over fewer steps: PSNR beside the best plain steps, and the steps that come as near."""
    rows, dense = record["rows"], dense_row(record) or {}
    own = next(row for row in rows if is_own(row))
    plain = [row for row in rows if (row.get("group") or "").startswith("fewer steps")]
    few, best = plain[0]["calls"], _nearest(plain)
    near, rival = (f"{row['psnr_db']['mean']:.1f} dB" for row in (own, best[0]))
    as_near = in_words(own["psnr_db"]["mean"], plain_curve(record))
    solver = record["plain_steps"]["solver"]
    steps = f"it takes about {as_near} plain steps of {solver} to come as near"
    if as_near == "never":
        steps = f"no number of plain steps up to {max(plain_curve(record))} comes as near"
    elif as_near.startswith("<"):
        steps = f"{min(plain_curve(record))} plain steps of {solver} already come nearer"
    return (
        f"With {few} calls of the denoiser instead of {dense['calls']}, the schedule that Secateur found reaches {near} PSNR "
        f"to the dense images. The best {few} plain steps ({_names(best, cut=True)}) reach {rival}, and {steps}."
    )


def _nearest(rows: Sequence[Row]) -> list[Row]:
    """The rows that print the highest PSNR, the highest first."""
    ordered = sorted(rows, key=lambda row: -row["psnr_db"]["mean"])
    return [row for row in ordered if f"{row['psnr_db']['mean']:.1f}" == f"{ordered[0]['psnr_db']['mean']:.1f}"]


def _names(rows: Sequence[Row], *, cut: bool = False) -> str:
    """The rows' names as a list in a sentence. cut: without what follows a comma."""
    names = [row["name"].partition(",")[0] if cut else row["name"] for row in rows]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _accuracy_finding(rows: list[Row], dense: Row | None) -> str:
    """The cheapest row whose interval reaches the dense accuracy; of equals the nearest to dense. This test is our choice."""
    aim = centre(dense, "accuracy") if dense else None
    rows = [row for row in rows if centre(row, "accuracy") is not None]
    if aim is None or not rows:
        return ""
    equal = [row for row in rows if _reach(row["accuracy"]) >= aim]
    if not equal:
        top = max(row["accuracy"]["mean"] for row in rows)
        best = [row for row in rows if f"{row['accuracy']['mean']:.2f}" == f"{top:.2f}"]
        share = percent(min(row["keep_linear"] for row in best))
        closest = f"the closest: {_names(best)}: {top:.2f} with {share} of the MACs"
        return f"Nothing here holds the dense prompt accuracy of {aim:.2f}; {closest}."
    cheap = [row for row in equal if keep(row) == min(map(keep, equal))]
    one = min(cheap, key=lambda row: (-(centre(row, "psnr_db") or 0.0), -row["accuracy"]["mean"]))
    held = f"prompt accuracy {one['accuracy']['mean']:.2f}, {percent(one['keep_linear'])} of the MACs{_faster(one)}"
    if len(cheap) == 1:
        return f"The cheapest row that holds the dense prompt accuracy of {aim:.2f} is {one['name']}: {held}."
    near = centre(one, "psnr_db")
    best = (
        f"nearest of them to the dense images is {one['name']}: {near:.1f} dB PSNR"
        if near
        else f"best of them is {one['name']}"
    )
    return f"{len(cheap)} rows hold the dense prompt accuracy of {aim:.2f} at the least MACs. The {best}, {held}."


def _likeness_finding(rows: list[Row], dense: Row | None) -> str:
    rows = [row for row in rows if centre(row, "psnr_db") is not None]
    if not rows:
        return ""
    best = _nearest([row for row in rows if keep(row) == min(map(keep, rows))])
    [one, *others] = best
    likeness = f"{one['psnr_db']['mean']:.1f} dB PSNR"
    likeness += "" if others else f" with {percent(one['keep_linear'])} of the MACs{_faster(one)}"
    return f"At keep {keep(one):.2g} the closest to the dense images {'are' if others else 'is'} {_names(best)}: {likeness}."


def _speed_finding(rows: list[Row], dense: Row | None) -> str:
    rows = [row for row in rows if centre(row, "speedup") is not None]
    if not rows:
        return ""
    top = max(row["speedup"]["median"] for row in rows)
    best = [row for row in rows if f"{row['speedup']['median']:.1f}" == f"{top:.1f}"]
    if len(best) > 1:
        return f"The fastest are {_names(best)}: {top:.1f}× faster."
    [one] = best
    fewer = f"{1 / (all_kept(one) or 1):.1f}× fewer MACs"
    return f"The fastest is {one['name']}: {top:.1f}× faster for {fewer}, {percent(realised(one) or 0)} of the ideal."


def _reach(spread: dict[str, Any]) -> float:
    return (interval(spread) or (0.0, spread["mean"]))[1]


def _faster(row: Row) -> str:
    speedup = centre(row, "speedup")
    return f", {speedup:.1f}× faster" if speedup else ""


def missed(record: dict[str, Any]) -> str:
    """Which rows keep over 5 % more or less MACs than they were made for, as a sentence; empty if none does."""
    rows = [row for row in record["rows"] if not is_dense(row) and row.get("keep") and row.get("keep_linear")]
    off = [row for row in rows if abs(row["keep_linear"] / row["keep"] - 1) > CLOSE]
    misses = (f"{row['name']} keeps {percent(row['keep_linear'])} of the MACs, not {percent(row['keep'])}" for row in off)
    return f"Not at the same budget: {'; '.join(misses)}." if off else ""
