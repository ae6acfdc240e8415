"""The tables of the fronts: README's one table, what comes nearest at each budget, and what each stage of the search adds."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from names import is_plain, is_published, library
from secateur.measuring.plain_steps import in_words
from secateur.measuring.variants import EVEN
from tables import PIPES, SAME_DB, Record, Row, all_rows, by_group, provenance, shown, tables

SOLVERS = ("DDIM", "DPM-Solver++", "UniPC")
AIMED = {"psnr_db": SOLVERS[:1], "converged_psnr_db": SOLVERS[1:]}  # a row's two measures, and the searches that aim there
AIM_OF = {solver: key for key, solvers in AIMED.items() for solver in solvers}
WHICH = {"psnr_db": "dense", "converged_psnr_db": "converged"}
BUDGETS = (0.5, 0.34, 0.25, 0.2, 0.15, 0.1)  # of the fronts, as fractions of the MACs
FRONTS = tuple(f"front-{pipe}" for pipe in PIPES)
SEARCHES = [(pipe, solver) for pipe in PIPES for solver in SOLVERS]
GAINED = (
    "PSNR: to the dense images. Accuracy: a small classifier reads the caption off the image. Never: even {most} steps, the "
    "most tried, are farther. 128 images a row; commands and machines: [front](docs/results/fewer-steps.md), "
    "[student](docs/results/time-or-depth.md)."
)
UNMEASURED = "They are not measured yet by today's search."
KINDS: dict[str, Callable[[str], bool]] = {  # of rivals: a table shows the nearest of each
    "best stock solver": is_plain,
    "best published sampler": is_published,
    "best evenly held calls": EVEN.__contains__,
    "stock, moved by gradients": lambda group: group.startswith("stock, moved"),
    "DiP-GO": lambda group: group.startswith("DiP-GO"),
    "best search by trial": ("random search", "genetic search", "BudCache-like").__contains__,
    "static cache": "static cache, best setting".__eq__,
}
MOST_ROWS = 10
ALWAYS = ("DDIM", "GITS")  # shown beside the nearest of their kind


def gains(front: Record, product: Record, *, keep: float = 0.2) -> Iterator[Row]:
    """Dense, the rivals and what the search finds at a fifth of the MACs, and the student."""
    student = {row["name"]: row for row in product["rows"]}
    dense, at = dense_of(front), [row for row in front["rows"] if row["keep"] == keep]
    every, few = dense["calls"], round(keep * dense["calls"])
    plain, hold = best(at, is_plain), best(at, EVEN.__contains__)
    cache, published = best(at, "static cache, best setting".__eq__), best(at, is_published)
    ours, curve = [row for row in at if row["group"] == "Secateur, DDIM"], envelope(front, "psnr_db")
    setting = "DeepCache, interval {interval}, depth {depth} (its best setting)".format_map(cache["setting"])
    titles = {
        f"dense, {every} DDIM steps": (dense, every),
        f"fewer steps: {library(plain['group'])}, the best stock solver": (plain, few),
        f"{published['group'].partition(',')[0]}: the best published sampler": (published, few),
        setting: (cache, every),
        "evenly held calls, no search: `apply(pipe, keep=0.2)`": (hold, few),
        f"**Secateur: searched, {few} of {every} calls** (median of {len(ours)} searches)": (middle(ours), few),
        "Secateur: student, half of the parameters": (student["student, dense"], every),
        "**Secateur: student, searched**": (student["student, schedule"], few),
    }
    for name, (row, calls) in titles.items():
        near = {"near": "the same" if row is dense else shown("{psnr_db.mean:.1f dB}", row), "as_near": as_near(row, curve)}
        yield ({"speedup": {"median": 1}} if row is dense else {}) | row | {"name": name, "called": calls, **near}


def dense_of(record: Record) -> Row:
    """The row of the dense images."""
    return next(row for row in record["rows"] if row["group"] == "dense")


def best(rows: list[Row], fits: Callable[[str], bool]) -> Row:
    """The row of these groups that is nearest to the dense images."""
    return max((row for row in rows if fits(row["group"])), key=lambda row: row["psnr_db"]["mean"])


def middle(values: list[Any]) -> Any:
    """The row of several searches: the median of each number."""
    if isinstance(values[0], dict):
        return {key: middle([value[key] for value in values]) for key in values[0] if all(key in value for value in values)}
    return median(values) if isinstance(values[0], int | float) else values[0]


def as_near(row: Row, curve: dict[int, float]) -> str:
    """How many plain steps come as near to the dense images; a dash for these."""
    return in_words(row["psnr_db"]["mean"], curve) if row["psnr_db"] and row["psnr_db"]["mean"] < SAME_DB else "–"


# The fronts


def at_budgets(key: str) -> Callable[[Record], Iterator[Row]]:
    """Rows of each budget that was searched at: what the search finds by this measure, and the rivals nearest by it."""

    def rows(record: Record) -> Iterator[Row]:
        curve = envelope(record, key)
        for keep in searched(record):
            at = [row for row in record["rows"] if row["keep"] == keep]
            groups, right = by_group(at, key), by_group(at, "accuracy")
            ours = [group for solver in AIMED[key] if (group := f"Secateur, {solver}") in groups]
            plain = max(filter(is_plain, groups), key=lambda group: fmean(groups[group]))
            first = next(row for row in at if row["group"] == "Secateur, DDIM")
            yield first | {
                "calls": 50 * keep,
                "steps": in_words(max(fmean(groups[group]) for group in ours), curve) if ours else "–",
                "plain": named(groups, plain),
                "rival": named(groups, rival_of(groups)),
                "right": fmean(fmean(right[group]) for group in ours) if ours else None,
                "dense": dense_of(record)["accuracy"],
                **{group.removeprefix("Secateur, "): emphasized(groups, group) for group in ours},
            }

    return rows


def searched(*records: Record) -> list[float]:
    """The budgets at which plain steps and searches for the dense images were measured, for all of these records."""
    kinds = is_plain, "Secateur, DDIM".__eq__
    made = [{row["keep"] for row in record["rows"] if fits(row["group"])} for record in records for fits in kinds]
    return [keep for keep in BUDGETS if all(keep in keeps for keeps in made)]


def envelope(record: Record, key: str) -> dict[int, float]:
    """PSNR of the best stock solver at each number of plain steps."""
    curve: dict[int, float] = {}
    for row in record["rows"]:
        if is_plain(row["group"]) and row.get(key):
            curve[row["calls"]] = max(row[key]["mean"], curve.get(row["calls"], 0.0))
    return curve


def is_ours(group: str) -> bool:
    return group.startswith("Secateur")


def rival_of(groups: dict[str, list[float]]) -> str:
    """The group that is nearest in the mean and not ours."""
    return max((group for group in groups if not is_ours(group)), key=lambda group: fmean(groups[group]))


def named(groups: dict[str, list[float]], group: str) -> str:
    return shown("{values:range.1f dB}", {"values": groups[group]}) + f", {library(group)}"


def emphasized(groups: dict[str, list[float]], group: str) -> str:
    """The mean of a group with the range of its searches, bold if no rival is nearer."""
    mean, _, ends = shown("{values:range.1f dB}", {"values": groups[group]}).partition(" (")
    bold = "**" if fmean(groups[group]) >= fmean(groups[rival_of(groups)]) else ""
    return f"{bold}{mean}{bold}" + (f" ({ends}" if ends else "")


def kinds(record: Record) -> dict[str, list[Row]]:
    """Of each kind of rival the nearest, and ours, with the mean of their searches at each budget: a table for each measure."""
    return {f"### Nearness to the {which} images": list(nearest(record, key)) for key, which in WHICH.items()}


def nearest(record: Record, key: str) -> Iterator[Row]:
    """For each kind, the PSNR at each budget of the group that is nearest at a fifth of the MACs; the nearest kinds first."""
    at = [by_group((row for row in record["rows"] if row["keep"] == keep), key) for keep in BUDGETS]
    for group, kind in telling(record, key).items():
        name = library(group) if library(group).startswith(kind) else f"{kind}: {library(group)}"
        yield {"name": name, "calls": [50 * keep for keep in BUDGETS], "at": [groups.get(group, []) for groups in at]}


def telling(record: Record, key: str) -> dict[str, str]:
    """The groups that a table shows, the nearest at a fifth of the MACs first; with the kind of which each is nearest."""
    fifth = by_group((row for row in record["rows"] if row["keep"] == 0.2), key)
    order = sorted(fifth, key=lambda group: (-fmean(fifth[group]), group))
    wanted = dict.fromkeys([*(f"Secateur, {solver}" for solver in AIMED[key]), *ALWAYS], "")
    for kind, fits in KINDS.items():
        wanted |= {group: kind for group in list(filter(fits, order))[:1] if group not in ALWAYS}
    return dict([(group, wanted[group]) for group in order if group in wanted][:MOST_ROWS])


def shortened(record: Record) -> Record:
    """The record with the dense row and those of the groups that tables show: few enough to be drawn."""
    groups = {"dense", *(group for key in WHICH for group in telling(record, key))}
    return record | {"rows": [row for row in record["rows"] if row["group"] in groups]}


def lead(key: str, *, keep: float = 0.2) -> Callable[..., str]:
    """A sentence a pipe: how near ten calls come by this measure, and how near the nearest rival of how many comes."""

    def text(*records: Record) -> str:
        sentences = []
        for record in records:
            groups = by_group((row for row in record["rows"] if row["keep"] == keep), key)
            ours = max(fmean(groups[group]) for group in groups if group.removeprefix("Secateur, ") in AIMED[key])
            rival = rival_of(groups)
            ahead = ours - fmean(groups[rival])
            least = f"{abs(ahead):.1f} dB {'farther' if ahead >= 0 else 'nearer'}"
            count = sum(not is_ours(group) for group in groups)
            sentences.append(
                f"On `{record['pipe']}` ten calls come to {ours:.1f} dB. "
                f"The nearest of {count} rivals, {library(rival)}, is {least}."
            )
        return "\n".join(f"* {sentence}" for sentence in sentences)

    return text


def by_solver(*records: Record) -> Iterator[Row]:
    """Of each budget, what each stage of the search adds, by pipe and solver: the mean of the searches."""
    for keep in searched(*records):
        row: Row = {"calls": 50 * keep}
        for pipe, solver in SEARCHES:
            group = [one for one in all_rows(*records) if (one["pipe"], one["keep"]) == (pipe, keep)]
            found = [one["stages"] for one in group if one["group"] == f"Secateur, {solver}"]
            if found:
                reached = [fmean(stages[key]["psnr_db"] for stages in found) for key in found[0]]
                gained = " + ".join(f"{x:.1f}" for x in (reached[0], *(b - a for a, b in pairwise(reached))))
                row[f"{pipe}, {solver}"] = f"{gained} dB"
        yield row


def every_stage(*records: Record) -> Iterator[Row]:
    """What each stage reaches on the calibration images, in how many seconds, and what the whole is worth on others."""
    rows = {(row["pipe"], row["name"]): row for row in all_rows(*records)}
    for (pipe, name), row in rows.items():
        if ", every stage, " in name:
            usual, key = rows[pipe, name.replace(", every stage", "")], AIM_OF[row["group"].split(", ")[1]]
            stages = list(row["stages"].values())
            gains = [b["psnr_db"] - a["psnr_db"] for a, b in pairwise(stages)]
            found = {"first": stages[0]["psnr_db"], "gains": gains, "seconds": [stage["seconds"] for stage in stages]}
            others = {"usual": usual[key]["mean"], "every": row[key]["mean"]}
            yield {"name": f"{pipe}, {name.split(', ')[1]}", "calls": row["calls"], **found, **others}


def nothing(*records: Record) -> tuple[Row, ...]:
    """No rows: of a text without a table."""
    return ()


COLUMNS = """
gains: emoji-sd = {name} | calls = {called} | MACs (with attention) = {macs_linear:.1f G} ({macs_attention:.1f G})
    | faster = {speedup.median:.1f}× | PSNR to dense = {near} | accuracy = {accuracy.mean:.1f %}
    | plain steps as near = {as_near}
gains-short: emoji-sd, beside 50 calls of DDIM = {name} | calls = {called} | faster = {speedup.median:.1f}×
    | PSNR to their images = {near}
dense-emoji-sd, dense-emoji-dit: dense calls = {calls:g} | Secateur, DDIM = {DDIM} | plain steps as near = {steps}
    | best plain steps = {plain} | nearest rival = {rival} | accuracy (dense {dense.mean:.1f %}) = {right:.1f %}
converged-emoji-sd, converged-emoji-dit: dense calls = {calls:g} | Secateur, DPM-Solver++ = {DPM-Solver++}
    | Secateur, UniPC = {UniPC} | plain steps as near = {steps} | best plain steps = {plain} | nearest rival = {rival}
    | accuracy (dense {dense.mean:.1f %}) = {right:.1f %}
rivals-emoji-sd, rivals-emoji-dit: PSNR in dB, dense calls: = {name} | {calls.0:g} = {at.0:range.1f}
    | {calls.1:g} = {at.1:range.1f} | {calls.2:g} = {at.2:range.1f} | {calls.3:g} = {at.3:range.1f}
    | {calls.4:g} = {at.4:range.1f} | {calls.5:g} = {at.5:range.1f}
lead-dense, lead-converged: =
every-stage: search = {name} | calls = {calls} | stock = {first:.1f} dB | placed and fitted = {gains.0:+.1f}
    | local search = {gains.1:+.1f} | gradients = {gains.2:+.1f} | seconds = {seconds:.0f}
    | on other images: the usual search = {usual:.1f} dB | every stage = {every:.1f} dB
front-stages: dense calls = {calls:g} | """
COLUMNS += " | ".join(f"{pipe}, {solver} = {{{pipe}, {solver}}}" for pipe, solver in SEARCHES)
TABLES = tables(
    COLUMNS,
    records={
        **dict.fromkeys(("gains", "gains-short"), ("front-emoji-sd", "product-emoji-sd")),
        **dict.fromkeys(("front-stages", "every-stage", "lead-dense", "lead-converged"), FRONTS),
        **{f"{start}-{pipe}": (f"front-{pipe}",) for start in ("dense", "converged", "rivals") for pipe in PIPES},
    },
    rows={
        "gains": gains,
        "gains-short": lambda *records: [row for row in gains(*records) if "student" not in row["name"]][1:],
        "front-stages": by_solver,
        "every-stage": every_stage,
        **dict.fromkeys(("lead-dense", "lead-converged"), nothing),
        **{f"{which}-{pipe}": at_budgets(key) for key, which in WHICH.items() for pipe in PIPES},
        **{f"rivals-{pipe}": kinds for pipe in PIPES},
    },
    after={
        "gains": lambda *records: shown(GAINED, {"most": max(envelope(records[0], "psnr_db"))}),
        "gains-short": lambda *_: "",
        "every-stage": lambda *records: provenance(*records) if any(every_stage(*records)) else UNMEASURED,
        **{f"lead-{which}": lead(key) for key, which in WHICH.items()},
    },
)
