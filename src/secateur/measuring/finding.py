"""What a record found, in a few sentences. A tie is said as a tie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from secateur.measuring.columns import Row, all_kept, centre, dense_row, is_dense, is_own, keep, percent, plain_curve
from secateur.measuring.plain_steps import in_words
from secateur.measuring.records import interval

CLOSE = 0.05  # of a budget in MACs: nearer counts as equal
MOST_BUDGETS, MOST_NAMES = 3, 4  # in a finding
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def headline(record: dict[str, Any]) -> str:
    """The finding in a few sentences, computed from the rows; empty if they hold nothing that can be compared.

    Schedules that were found or given come first. Of rows that print the same figure it names or counts all.
    """
    if record.get("plain_steps"):
        return _gain_finding(record)
    rows = [row for row in record["rows"] if not is_dense(row) and row.get("keep_linear")]
    for finding in (_own_finding, _accuracy_finding, _likeness_finding, _speed_finding):
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
    near, rival = (_db(row) for row in (own, best[0]))
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


def _db(row: Row) -> str:
    return f"{row['psnr_db']['mean']:.1f} dB"


def _nearest(rows: Sequence[Row]) -> list[Row]:
    """The rows that print the highest PSNR, the highest first; a row whose images are the dense ones has none."""
    ordered = sorted((row for row in rows if row["psnr_db"]), key=lambda row: -row["psnr_db"]["mean"])
    return [row for row in ordered if _db(row) == _db(ordered[0])]


def _names(rows: Sequence[Row], *, cut: bool = False) -> str:
    """The rows' names as a list in a sentence, `MOST_NAMES` at most. cut: without what follows a comma."""
    names = [row["name"].partition(",")[0] if cut else row["name"] for row in rows]
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], f"{_count(len(names) - MOST_NAMES + 1)} more"]
    comma = "; " if any("," in name for name in names) else ", "
    return " and ".join(filter(None, (comma.join(names[:-1]), names[-1])))


def _count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def _do(rows: Sequence[Row]) -> str:
    return f"{_count(len(rows))} {'does' if len(rows) == 1 else 'do'}"


def _come(rows: Sequence[Row]) -> str:
    return "comes" if len(rows) == 1 else "come"


def _own_finding(rows: list[Row], dense: Row | None) -> str:
    """How near the schedules that the record is about come at each budget, and whether they hold the accuracy."""
    own = [row for row in rows if is_own(row) and centre(row, "psnr_db") is not None]
    budgets = list(dict.fromkeys(map(keep, own)))[:MOST_BUDGETS]
    sentences = [_beside_rivals(budget, rows, alone=len(budgets) == 1) for budget in budgets]
    return " ".join([*sentences, *_held_by_own(own, rows, dense)])


def _beside_rivals(budget: float, rows: Sequence[Row], *, alone: bool) -> str:
    """The own row of a budget that is nearest to the dense images, beside the rivals. alone: the best rival is named too."""
    same = [row for row in rows if keep(row) == budget and centre(row, "psnr_db") is not None]
    own, rivals = ([row for row in same if is_own(row) is mine] for mine in (True, False))
    [one, *_] = _nearest(own)
    name = one["name"] if len(own) == 1 else f"{one['name']}, the best of {_count(len(own))} schedules,"
    fast = f"is {speedup:.1f}× faster and " if (speedup := _speedup(one)) else ""
    said = f"With {percent(one['keep_linear'])} of the MACs, {name} {fast}reaches {_db(one)} PSNR to the dense images"
    if not rivals:
        return f"{said}."
    level, best = [row for row in rivals if _db(row) == _db(one)], _nearest(rivals)
    nearer = [row for row in rivals if row not in level and row["psnr_db"]["mean"] > one["psnr_db"]["mean"]]
    if level and not nearer:
        return f"{said}. No rival at this cost comes nearer; {_count(len(level))} {_come(level)} as near."
    if len(rivals) == 1:
        return f"{said}; its rival, {best[0]['name']}, reaches {_db(best[0])}."
    beside = f"none of {_count(len(rivals))} rivals comes as near"
    if nearer:
        beside = f"{_count(len(nearer))} of {_count(len(rivals))} rivals {_come(nearer)} nearer"
    reach = f" The best of them, {_names(best)}, {'reaches' if len(best) == 1 else 'reach'} {_db(best[0])}." if alone else ""
    return f"{said}; {beside}.{reach}"


def _held_by_own(own: Sequence[Row], rows: Sequence[Row], dense: Row | None) -> Iterator[str]:
    """Whether the cheapest own row that holds the dense accuracy has rivals that do as well."""
    aim = centre(dense, "accuracy") if dense else None
    judged = [row for row in own if centre(row, "accuracy") is not None]
    if aim is None or not judged:
        return
    held = [row for row in judged if _holds(row, aim)]
    if not held:
        best = max(judged, key=lambda row: row["accuracy"]["mean"])
        yield f"The dense prompt accuracy of {aim:.2f} is not held: {best['name']} has {best['accuracy']['mean']:.2f}."
        return
    one = min(held, key=lambda row: (keep(row), -(centre(row, "psnr_db") or 0.0)))
    others = [row for row in rows if not is_own(row) and _holds(row, aim)]
    cheaper = [row for row in others if row["keep_linear"] < one["keep_linear"] * (1 - CLOSE)]
    level = [row for row in others if row not in cheaper and row["keep_linear"] <= one["keep_linear"] * (1 + CLOSE)]
    name = "It" if len(own) == 1 else one["name"]
    if cheaper:
        yield f"{name} holds the dense prompt accuracy of {aim:.2f}; {_do(cheaper)} with fewer MACs."
    elif level:
        yield f"{name} holds the dense prompt accuracy of {aim:.2f}. No row with fewer MACs does; {_do(level)} as well."
    else:
        yield f"{name} holds the dense prompt accuracy of {aim:.2f}, and no row with as few MACs does."


def _accuracy_finding(rows: list[Row], dense: Row | None) -> str:
    """The cheapest row whose interval reaches the dense accuracy; of equals the nearest to dense. This test is our choice."""
    aim = centre(dense, "accuracy") if dense else None
    rows = [row for row in rows if centre(row, "accuracy") is not None]
    if aim is None or not rows:
        return ""
    equal = [row for row in rows if _holds(row, aim)]
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
    best = _nearest(cheap) if centre(one, "psnr_db") is not None else cheap
    nearest = f" The nearest of them to the dense images: {_names(best)}, {_db(one)} PSNR." if len(best) < len(cheap) else ""
    few = f"with {percent(one['keep_linear'])} of the MACs; no row with fewer does"
    return f"{_count(len(cheap)).capitalize()} rows hold the dense prompt accuracy of {aim:.2f} {few}.{nearest}"


def _likeness_finding(rows: list[Row], dense: Row | None) -> str:
    rows = [row for row in rows if centre(row, "psnr_db") is not None]
    if not rows:
        return ""
    best = _nearest([row for row in rows if keep(row) == min(map(keep, rows))])
    [one, *others] = best
    likeness = f"{_db(one)} PSNR"
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
    return f"The fastest is {one['name']}: {top:.1f}× faster for {1 / (all_kept(one) or 1):.1f}× fewer MACs."


def _holds(row: Row, aim: float) -> bool:
    """Whether a row's accuracy prints as `aim` does, or its interval reaches it."""
    spread = row.get("accuracy")
    if spread is None:
        return False
    return f"{spread['mean']:.2f}" == f"{aim:.2f}" or (interval(spread) or (0.0, spread["mean"]))[1] >= aim


def _speedup(row: Row) -> float | None:
    """How much faster a row is; None if a single pair of images was timed, which says little."""
    ends = interval(row.get("speedup") or {})
    return None if ends and ends[0] == ends[1] else centre(row, "speedup")


def _faster(row: Row) -> str:
    speedup = _speedup(row)
    return f", {speedup:.1f}× faster" if speedup else ""


def missed(record: dict[str, Any]) -> str:
    """Which rows keep over 5 % more or less MACs than they were made for, as a sentence; empty if none does.

    Rows that miss the same budget by as much are counted.
    """
    rows = [row for row in record["rows"] if not is_dense(row) and row.get("keep") and row.get("keep_linear")]
    off = [row for row in rows if abs(row["keep_linear"] / row["keep"] - 1) > CLOSE]
    by_miss: dict[str, list[Row]] = {}
    for row in off:
        by_miss.setdefault(f"{percent(row['keep_linear'])} of the MACs, not {percent(row['keep'])}", []).append(row)
    said = (
        f"{alike[0]['name']} keeps {miss}" if len(alike) == 1 else f"{_count(len(alike))} rows keep {miss}"
        for miss, alike in by_miss.items()
    )
    return f"Not at the same budget: {'; '.join(said)}." if off else ""
