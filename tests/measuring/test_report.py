"""Records, their table and their drawings, on records as the commands write them."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from rich.console import Console

from made_records import STAGES, benchmark, comparison, layers, memory, picture
from secateur.measuring import columns, records, report
from secateur.measuring.svg import MOST_SERIES, Axis, Point, mark_svg, plot_svg
from secateur.schedule.drawing import calls_svg, grid_svg


@pytest.fixture(scope="module")
def record() -> dict:
    return comparison(STAGES)


def printed(record: dict, width: int | None = 150) -> str:
    console = Console(width=width or 200, file=io.StringIO(), color_system=None)
    console.print(report.table(record, width=width))
    return console.file.getvalue()


# records


def test_a_saved_record_loads_equal_and_leaves_no_draft(record, tmp_path):
    report.save(record, tmp_path / "r.json")
    assert report.load(tmp_path / "r.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_refused_record_does_not_touch_the_file(record, tmp_path):
    path = tmp_path / "r.json"
    report.save(record, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="finite number"):
        report.save(record | {"rows": [{"name": "a", "frechet": math.nan}]}, path)
    assert path.read_bytes() == before


def test_load_reads_picture_files_in(record, tmp_path):
    raw = base64.b64decode(picture(1, 0.0).partition(",")[2])
    (tmp_path / "one.png").write_bytes(raw)
    (tmp_path / "r.json").write_text(json.dumps({"format": 1, "title": "x", "rows": [{"name": "a", "images": ["one.png"]}]}))
    loaded = report.load(tmp_path / "r.json")
    assert base64.b64decode(loaded["rows"][0]["images"][0].removeprefix("data:image/png;base64,")) == raw


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"title": None}, "title None, wanted text"),
        ({"rows": []}, "no rows"),
        ({"rows": ["dense"]}, "row 0 is a str"),
        ({"rows": [{"group": "dense"}]}, "name None"),
        ({"rows": [{"name": "a", "calls": 9.5}]}, "'a' has calls 9.5, wanted a whole number"),
        ({"rows": [{"name": "a", "frechet": True}]}, "frechet True"),
        ({"rows": [{"name": "a", "keep_linear": 0}]}, "keep_linear 0, wanted a fraction above 0"),
        ({"rows": [{"name": "a", "speedup": 2.0}]}, "speedup 2.0, wanted an object with 'median'"),
        ({"rows": [{"name": "a", "psnr_db": {"mean": math.inf}}]}, "psnr_db.mean inf"),
        ({"rows": [{"name": "a", "ssim": {"mean": 0.5, "ci95": [0.4]}}]}, "ssim.ci95"),
        ({"rows": [{"name": "a", "grid": ["#" * 8]}]}, "8 cells at call 0, wanted one for each of 9 blocks"),
        ({"rows": [{"name": "a", "grid": ["########x"]}]}, "'########x' at call 0"),
        ({"rows": [{"name": "a", "grid": "#"}]}, "wanted a list of strings"),
        ({"rows": [{"name": "a", "timesteps": ["<b>"]}]}, "'a' has timesteps '<b>', wanted a finite number"),
        ({"rows": [{"name": "a", "timesteps": [9, None]}]}, r"timesteps \[9, None\], wanted a list of numbers"),
        ({"rows": [{"name": "a", "images": ["../secret.png"]}]}, "image '../secret.png'"),
        ({"rows": [{"name": "a", "images": ["/etc/passwd"]}]}, "image '/etc/passwd'"),
        ({"rows": [{"name": "a", "images": ["x.png"]}, {"name": "b", "images": ["x.png"] * 2}]}, "the same number"),
        ({"rows": [{"name": "a", "images": ["x.png"] * 7}]}, "7 images for 6 conditions"),
        ({"options": []}, r"options \[\], wanted an object"),
    ],
)
def test_a_malformed_record_is_refused_in_one_sentence(record, change, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        report.check(record | change)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused_in_one_sentence(record, tmp_path):
    whole = json.dumps(record)
    (tmp_path / "cut.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.json is no whole record: it is no JSON, or cut short"):
        report.load(tmp_path / "cut.json")
    with pytest.raises(FileNotFoundError, match="no record at"):
        report.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report.save(record, tmp_path / "none" / "r.json")
    (tmp_path / "r.json").write_text('{"format": 1, "title": "x", "rows": [{"name": "a", "images": ["gone.png"]}]}')
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        report.load(tmp_path / "r.json")


def test_a_blank_record_has_what_it_is_given():
    head = records.blank("Costs", "python costs.py", pipe="emoji-sd", seeds=range(3), options={"steps": 50})
    assert list(head) == ["format", "title", "command", "pipe", "made", "hardware", "seeds", "options", "rows"]
    assert (head["seeds"], head["rows"]) == ([0, 1, 2], [])
    report.check(head | {"rows": [{"name": "dense"}]})
    assert "pipe" not in records.blank("Costs", "python costs.py")


# the finding


def gain(record: dict, own_db: float) -> dict:
    """The record as the demo has it: a found schedule beside plain steps of which two print the same."""
    [dense, one, *_] = record["rows"]
    row = lambda name, group, mean: {**one, "name": name, "group": group, "calls": 10, "psnr_db": {"mean": mean}}  # noqa: E731
    rivals = [row("DDIM, 10 steps", "fewer steps DDIM", 30.8), row("DPM-Solver++, 10 steps", "fewer steps DPM", 35.56),
              row("UniPC, 10 steps", "fewer steps UniPC", 35.64)]  # fmt: skip
    plain = {"solver": "UniPC", "psnr_db": {"5": 20.0, "10": 35.64, "20": 39.64, "50": 41.0}}
    return record | {"rows": [dense, row("Secateur", "Secateur", own_db), *rivals], "plain_steps": plain}


@pytest.mark.parametrize(
    ("own_db", "end"),
    [
        (37.64, "and it takes about 14 plain steps of UniPC to come as near."),
        (42.0, "and no number of plain steps up to 50 comes as near."),
        (19.0, "and 5 plain steps of UniPC already come nearer."),
    ],
)
def test_headline_of_a_found_schedule_answers_what_it_gains(record, own_db, end):
    sentence = report.headline(gain(record, own_db))
    assert sentence.startswith(
        f"With 10 calls of the denoiser instead of 50, the schedule that Secateur found reaches {own_db:.1f} dB PSNR "
    )
    assert "The best 10 plain steps (UniPC and DPM-Solver++) reach 35.6 dB, " in sentence
    assert sentence.endswith(end)


def test_plain_steps_are_a_column(record):
    [column] = [c for c in columns.columns(gain(record, 37.64)) if c.title == "as near as"]
    cells = [column.cell(row) for row in gain(record, 37.64)["rows"]]
    assert [cell and cell.text for cell in cells] == [None, "14", "8", "10", "10"]
    assert "as near as" not in [c.title for c in columns.columns(record)]


# the table


def test_table_shows_every_row_both_conventions_and_dashes(record):
    lines = printed(record).splitlines()
    dense = next(line for line in lines if "dense, DDIM 50 steps" in line)
    assert {"54.0", "65.0", "–"} <= set(dense.split())
    assert all(any(made["name"] in line for line in lines) for made in record["rows"])
    assert dense.split().count("–") == 1  # PSNR


@pytest.mark.parametrize("width", [80, 100, 120])
def test_table_drops_columns_rather_than_figures(record, width):
    text = printed(record, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for made in record["rows"][1:]:
        assert f"{made['psnr_db']['mean']:.1f}" in text
        assert f"{made['accuracy']['mean']:.2f}" in text
    assert "Fréchet" not in text
    assert "Fréchet" in printed(record, width=None)


def test_text_is_folded_and_columns_that_few_rows_fill_go_first():
    rows = [{"name": f"row {k}", "why": f"because of {'this and that ' * 4}{k}", "count": k, "rate": 0.5} for k in range(4)]
    text = printed({"format": 1, "title": "x", "rows": [rows[0] | {"seldom_ms": 9.0}, *rows[1:]]}, width=62)
    assert all(line.rstrip().endswith("0.5") for line in text.splitlines() if "row" in line)
    assert "…" not in text
    assert "seldom" not in text
    assert max(map(len, text.splitlines())) <= 62


def test_markdown_has_shares_intervals_and_the_best_in_bold(record):
    rows = record["rows"][:3]
    figures = [c for c in columns.columns(record) if c.title in ("MACs", "PSNR")]
    lines = columns.markdown(rows, [columns.NAME, *figures]).splitlines()
    assert lines[:2] == ["|  | MACs, G | PSNR, dB |", "|---|---:|---:|"]
    assert lines[2] == "| dense, DDIM 50 steps | 54.0 (100 %) | – |"
    assert re.fullmatch(r"\| uniform hold, every 2 \| 27\.0 \(50 %\) \| [\d.]+ \([\d.–]+\) \|", lines[3])
    assert re.fullmatch(r"\| DeepCache, interval 3 \| 27\.0 \(50 %\) \| \*\*[\d.]+\*\* \([\d.–]+\) \|", lines[4])


def test_table_leaves_out_what_no_row_has():
    assert "PSNR" not in printed(benchmark())
    text = printed(memory())
    assert "MACs" not in text
    assert re.search(r"SD-1\.5, stage +UNet2DConditionModel +5\.0 +1\.5\b", text)
    assert re.search(r"SDXL, layer +UNet2DConditionModel +35\.0 +–", text)
    assert "MiB" in text


# the drawings


def cells(svg: str) -> set[tuple[int, int]]:
    """(call, block) of the cells that a grid's drawing shows as running, read back from its path."""
    path = next(part for part in svg.split("<path") if "--run" in part)
    runs = re.findall(r"M(\d+) (\d+)h(\d+)v1", path)
    return {(t, int(i)) for start, i, width in runs for t in range(int(start), int(start) + int(width))}


@pytest.mark.parametrize("names", [STAGES, layers()], ids=["stage", "layer"])
def test_grid_draws_exactly_the_cells_that_run(names):
    assert len(names) in (9, 44)
    for made in comparison(names)["rows"]:
        if made["grid"]:
            svg = grid_svg(made["grid"], names)
            ElementTree.fromstring(svg)
            wanted = {(t, i) for t, line in enumerate(made["grid"]) for i, cell in enumerate(line) if cell == "#"}
            assert cells(svg) == wanted


def test_grid_says_what_it_shows_and_labels_groups_of_many_blocks():
    names = layers()
    svg = grid_svg(["#" * 44, "." * 44, "#" * 22 + "." * 22, "." * 44], names)
    assert 'aria-label="2 of 4 calls enter the denoiser; 38% of the cells run"' in svg
    labels = re.findall(r'text-anchor="end">([^<]+)<', svg)
    assert labels == [*(f"down {i}" for i in range(4)), "mid", *(f"up {i}" for i in range(4))]
    assert re.findall(r"--held[^>]*d=\"([^\"]*)\"", svg) == ["M1 0h1v44h-1zM3 0h1v44h-1z"]


def test_grid_labels_transformers_by_kind():
    svg = grid_svg(["#" * 57], [f"transformer_blocks.{i}" for i in range(19)] + ["single_transformer_blocks.0"] * 38)
    assert re.findall(r'text-anchor="end">([^<]+)<', svg) == ["transformer", "single transformer"]


def test_plot_is_logarithmic_in_cost_and_linear_in_quality():
    points = [Point(kept, value, None, f"at {kept}") for kept, value in ((0.125, 10.0), (0.25, 20.0), (0.5, 30.0))]
    svg = plot_svg([points], Axis("PSNR", "g"), ticks=[0.125, 1.0])
    ElementTree.fromstring(svg)
    places = [tuple(map(float, place)) for place in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", svg)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.05)
    assert x1 > x0
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.05)
    assert y1 < y0


def test_plot_marks_dense_by_value_or_else_by_cost():
    series = [[Point(0.5, 0.9, (0.85, 0.93), "a & b")]]
    assert "dense 0.95" in plot_svg(series, Axis("accuracy", "g", dense=0.95), ticks=[1.0])
    unmarked = plot_svg(series, Axis("PSNR", "g"), ticks=[1.0])
    assert ">dense<" in unmarked
    assert "a &amp; b: 0.9 at 50%" in unmarked


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.0, 0.0), (0.5, 0.9), (12.3, 41.0), (1e-6, 3e-6)])
def test_plot_encloses_its_points(values):
    points = [Point(kept, value, None, "a") for kept, value in zip((0.2, 0.5), values, strict=True)]
    svg = plot_svg([points], Axis("quality", "g", dense=values[1]), ticks=[0.2, 1.0])
    places = [tuple(map(float, place)) for place in re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", svg)]
    assert len(places) == 2
    assert all(50 <= x <= 464 and 34 <= y <= 256 for x, y in places)


def test_twenty_marks_differ_without_their_colours():
    marks = [re.sub(r"var\(--series[^)]*\)", "colour", mark_svg(slot)) for slot in range(MOST_SERIES)]
    assert len(set(marks)) == MOST_SERIES == 20
    assert mark_svg(MOST_SERIES) == mark_svg(MOST_SERIES + 1)
    assert mark_svg(MOST_SERIES) not in marks
    for mark in map(mark_svg, range(MOST_SERIES)):
        ElementTree.fromstring(mark)


def test_points_of_one_cost_stand_side_by_side_and_own_ones_on_top():
    series = [[Point(kept, 10.0 + slot, None, f"s{slot}") for kept in (0.2, 0.5)] for slot in range(6)]
    svg = plot_svg(series, Axis("PSNR", "g"), ticks=[0.2, 0.5, 1.0], own=1)
    alone = plot_svg(series[:1], Axis("PSNR", "g", dense=15.0), ticks=[0.2, 0.5, 1.0])
    places = {name: float(x) for x, name in re.findall(r"translate\(([\d.]+) [^<]*<path[^>]*><title>(s\d: \d+ at 20%)", svg)}
    xs = sorted(places.values())
    assert len(xs) == 6
    assert min(b - a for a, b in pairwise(xs)) > 8
    [(own, _), _] = re.findall(r"translate\(([\d.]+) ([\d.]+)\)", alone)
    assert sum(xs) / 6 == pytest.approx(float(own), abs=0.01)  # about their cost
    assert re.findall(r'data-series="(\d)"', svg) == ["5", "4", "3", "2", "1", "0"]  # what is drawn last covers


def test_calls_are_drawn_at_their_timesteps():
    svg = calls_svg([999.0, 500.0, 0.0])
    ElementTree.fromstring(svg)
    assert re.findall(r"M([\d.]+) 0v22", svg) == ["0.4", "200", "400"]
    assert 'aria-label="3 calls, at the timesteps 999 500 0"' in svg
