"""Records, their table and their page, on records as the commands write them, with small drawn pictures."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console

from secateur.measuring import columns, records, report
from secateur.measuring.svg import Axis, Point, plot_svg

STAGES = [f"down_blocks.{i}" for i in range(4)] + ["mid_block"] + [f"up_blocks.{i}" for i in range(4)]
PROMPTS = [
    "a red apple on a blue background",
    "a green frog on a yellow background",
    "a cat left of a star",
    "a rocket above a pizza",
    "an orange on a purple background",
    "a <b>bold</b> & curious owl",
]
KEEPS = {0.5: 2, 0.33: 3, 0.2: 5}


def layers() -> list[str]:
    """The 44 layers of SD-1.5's U-Net: resnets, attentions, samplers, in execution order."""
    names = [f"down_blocks.{i}.{kind}.{j}" for i in range(3) for j in range(2) for kind in ("resnets", "attentions")]
    names = [*names[:4], "down_blocks.0.downsamplers.0", *names[4:8], "down_blocks.1.downsamplers.0", *names[8:]]
    names += ["down_blocks.2.downsamplers.0", "down_blocks.3.resnets.0", "down_blocks.3.resnets.1"]
    names += ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"]
    names += [f"up_blocks.0.resnets.{j}" for j in range(3)] + ["up_blocks.0.upsamplers.0"]
    for i in (1, 2, 3):
        names += [f"up_blocks.{i}.{kind}.{j}" for j in range(3) for kind in ("resnets", "attentions")]
        names += [f"up_blocks.{i}.upsamplers.0"] * (i < 3)
    return names


def picture(seed: int, wear: float) -> str:
    """A data URI: a 64 px PNG of a shape on a ground, the blurrier and further off the more it is worn."""
    ground, body = ("#8cb4e8", "#f2d36b", "#cfe3c8", "#b7a3d9")[seed % 4], ("#c93a3a", "#3c9a4e", "#e08a2c", "#7a4a2a")
    image = Image.new("RGB", (64, 64), ground)
    left = 14 + 4 * (seed % 3) + round(4 * wear)
    draw = ImageDraw.Draw(image)
    draw.ellipse((left, 16, left + 32, 50), fill=body[seed % 4])
    draw.ellipse((left + 8, 22, left + 14, 28), fill="#fff7ee")
    raw = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(2.5 * wear)).save(raw, "PNG")
    return "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode()


def row(name: str, group: str, keep: float, *, calls: int, wear: float, grid: list[str] | None) -> dict:
    """A row as `compare` writes it, its quality falling with wear."""
    linear, attention, accuracy = 5.4e10, 6.5e10, 0.952 - 0.3 * wear**1.5
    return {
        "name": name, "group": group, "keep": keep, "calls": calls, "steps": calls,
        "scheduler": "DPMSolverMultistepScheduler" if "DPM" in group else "DDIMScheduler",
        "macs_linear": round(linear * keep), "macs_attention": round(attention * keep),
        "keep_linear": keep, "keep_attention": keep * (1.01 if keep < 1 else 1),
        "latency_s": {"median": 1.04 * keep + 0.02, "low": 1.02 * keep + 0.02, "high": 1.1 * keep + 0.02, "repeats": 5},
        "speedup": {"median": 0.96 / keep, "low": 0.92 / keep, "high": 0.98 / keep},
        "psnr_db": {"mean": 31 - 14 * wear, "ci95": [30.4 - 14 * wear, 31.6 - 14 * wear]},
        "ssim": {"mean": 0.97 - 0.3 * wear, "ci95": [0.96 - 0.3 * wear, 0.98 - 0.3 * wear]},
        "accuracy": {"mean": accuracy, "ci95": [accuracy - 0.03, min(1.0, accuracy + 0.025)]},
        "frechet": 1.2 + 9 * wear, "grid": grid, "images": [picture(i, wear) for i in range(len(PROMPTS))],
    }  # fmt: skip


def comparison(blocks: list[str]) -> dict:
    """A record of dense and 3 keeps × 4 variants at 50 calls, as the demo makes it."""
    width = len(blocks)
    dense = row("dense, DDIM 50 steps", "dense", 1.0, calls=50, wear=0.0, grid=["#" * width] * 50)
    rows = [dense | {"keep": None, "psnr_db": None, "ssim": None, "frechet": 1.18}]
    kept = "".join("#" if name.startswith(("down_blocks.0", "up_blocks.3")) else "." for name in blocks)
    for keep, every in KEEPS.items():
        held = ["#" * width if t % every == 0 else "." * width for t in range(50)]
        shallow = ["#" * width if t % (every + 1) == 0 else kept for t in range(50)]
        few, wear = round(50 * keep), (1 - keep) ** 2
        rows += [
            row(f"uniform hold, every {every}", "uniform", keep, calls=50, wear=1.35 * wear, grid=held),
            row(f"DeepCache, interval {every + 1}", "DeepCache", keep, calls=50, wear=0.7 * wear, grid=shallow),
            row(f"DDIM, {few} steps", "fewer steps, DDIM", keep, calls=few, wear=wear, grid=None),
            row(f"DPM-Solver++, {few} steps", "fewer steps, DPM-Solver++", keep, calls=few, wear=0.25 * wear, grid=None),
        ]
    return {
        "format": 1, "title": "Twelve ways to draw emoji for less", "pipe": "emoji-sd", "made": "2026-01-15T10:02:11",
        "command": "secateur demo --pipe emoji-sd --keep 0.5 --keep 0.33 --keep 0.2 --seeds 64",
        "hardware": {"cpu": "Xeon Platinum 8481C", "cores": 2, "ram": "8 GiB", "gpu": None, "torch": "2.13.0"},
        "seeds": list(range(64)), "conditions": PROMPTS, "options": {"guidance_scale": 5.0, "batch_size": 8},
        "blocks": blocks, "rows": rows,
    }  # fmt: skip


def benchmark() -> dict:
    """A record of running time alone."""
    dense = {"name": "dense", "group": "dense", "calls": 50, "macs_linear": 33_860_000_000_000, "keep_linear": 1.0}
    dense["latency_s"] = {"median": 141.2, "low": 139.8, "high": 143.0, "repeats": 5}
    fast = {"name": "DiP-GO, published", "group": "DiP-GO", "keep": 0.2, "calls": 50, "macs_linear": 6_772_000_000_000}
    fast |= {"keep_linear": 0.2, "keep_attention": 0.2, "speedup": {"median": 4.8, "low": 4.7, "high": 4.9}}
    fast |= {"latency_s": {"median": 29.4, "low": 29.0, "high": 30.1, "repeats": 5}}
    return {"format": 1, "title": "Running time on SD-1.5's architecture", "rows": [dense, fast]}


def memory() -> dict:
    """A record of figures that the report does not know."""
    rows = [
        {"name": "SD-1.5, stage", "denoiser": "UNet2DConditionModel", "peak_cached_bytes": 5_242_880, "held_ms": 1.5},
        {"name": "SDXL, layer", "denoiser": "UNet2DConditionModel", "peak_cached_bytes": 36_700_160, "held_ms": None},
    ]
    return {"format": 1, "title": "Peak bytes cached", "rows": rows}


@pytest.fixture(scope="module")
def record() -> dict:
    return comparison(STAGES)


def printed(record: dict, width: int | None = 150) -> str:
    console = Console(width=width or 200, file=io.StringIO(), color_system=None)
    console.print(report.table(record, width=width))
    return console.file.getvalue()


class Page(HTMLParser):
    """Tags of a page with their attributes, and its text; every tag that was opened must be closed in order."""

    VOID = frozenset(("meta", "img", "br", "hr", "link", "input"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [have for name, have in self.tags if name == tag and attributes.items() <= have.items()]


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


def test_headline_names_the_cheapest_row_that_holds_the_accuracy(record):
    sentence = report.headline(record)
    assert "The cheapest row that holds the dense prompt accuracy of 0.95 is DPM-Solver++, 10 steps: " in sentence
    assert sentence.endswith("prompt accuracy 0.93, 20 % of the MACs, 4.8× faster.")


def test_headline_names_of_equals_the_nearest_to_the_dense_images(record):
    [dense, one, *_] = record["rows"]
    alike = {**one, "accuracy": dense["accuracy"], "keep": 0.2}
    near = {mean: {**alike, "name": f"{mean} dB", "psnr_db": {**one["psnr_db"], "mean": mean}} for mean in (30.0, 40.0, 35.0)}
    sentence = report.headline(record | {"rows": [dense, *near.values()]})
    assert sentence == (
        "3 rows hold the dense prompt accuracy of 0.95 at the least MACs. The nearest of them to the dense images is 40.0 dB: "
        "40.0 dB PSNR, prompt accuracy 0.95, 50 % of the MACs, 1.9× faster."
    )


def test_headline_names_all_that_print_the_same(record):
    [dense, one, two, three, *_] = record["rows"]
    alike = [{**row, "accuracy": None, "keep": 0.2, "psnr_db": {"mean": mean}} for row, mean in
             ((one, 30.04), (two, 30.0), (three, 29.9))]  # fmt: skip
    sentence = report.headline(record | {"rows": [dense, *alike]})
    assert sentence == f"At keep 0.2 the closest to the dense images are {one['name']} and {two['name']}: 30.0 dB PSNR."
    fast = [{"name": name, "group": name, "keep_linear": 0.2, "speedup": {"median": 4.81}} for name in "abc"]
    assert report.headline(benchmark() | {"rows": fast}) == "The fastest are a, b and c: 4.8× faster."


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


def test_rows_that_miss_their_budget_are_named(record):
    assert report.missed(record) == ""
    rows = [row | {"keep_linear": 0.29} if row["name"] == "DeepCache, interval 6" else row for row in record["rows"]]
    sentence = report.missed(record | {"rows": rows})
    assert sentence == "Not at the same budget: DeepCache, interval 6 keeps 29 % of the MACs, not 20 %."


def test_headline_admits_that_nothing_holds(record):
    worse = copy.deepcopy(record)
    for number, made in enumerate(worse["rows"][1:]):
        made["accuracy"] = {"mean": 0.3 + 0.01 * number, "ci95": [0.2, 0.5]}
    sentence = report.headline(worse)
    assert "Nothing here holds" in sentence
    assert worse["rows"][-1]["name"] in sentence


def test_headline_without_accuracy_falls_back_to_likeness_then_speed_then_silence(record):
    alike = [{key: value for key, value in made.items() if key != "accuracy"} for made in record["rows"]]
    best = max((made for made in alike if made["keep"] == 0.2), key=lambda made: made["psnr_db"]["mean"])
    assert f"At keep 0.2 the closest to the dense images is {best['name']}" in report.headline(record | {"rows": alike})
    assert (
        report.headline(benchmark()) == "The fastest is DiP-GO, published: 4.8× faster for 5.0× fewer MACs, 96 % of the ideal."
    )
    assert report.headline(memory()) == ""


def test_ideal_counts_attention_unless_the_row_says_its_efficiency():
    timed = benchmark()
    timed["rows"][1] |= {"keep_attention": 0.25, "speedup": {"median": 3.6}}
    assert report.headline(timed).endswith("3.6× faster for 4.0× fewer MACs, 90 % of the ideal.")
    timed["rows"][1]["efficiency"] = 0.88
    assert report.headline(timed).endswith("88 % of the ideal.")


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


# the page


def test_page_is_well_formed_and_reaches_for_nothing(record):
    text = report.html(record)
    page = Page(text)
    sources = [value for _, have in page.tags for key, value in have.items() if key in ("src", "href", "srcset")]
    assert len(sources) >= 15 * len(PROMPTS)
    assert all(source.startswith("data:image/") for source in sources)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[^\"]*", "", text))


def test_page_escapes_what_the_record_says(record):
    page = Page(report.html(record | {"title": "<script>x</script>", "command": "a && <i>"}))
    assert not page.all("script")
    assert not page.all("b")
    assert not page.all("i")
    assert "a <b>bold</b> & curious owl" in page.words


def test_every_picture_says_what_it_is_and_stands_in_its_row(record):
    page = Page(report.html(record))
    shown = {have["alt"]: have["src"] for have in page.all("img")}
    assert len(shown) == len(PROMPTS) * len(record["rows"])
    for made in record["rows"]:
        for prompt, image in zip(PROMPTS, made["images"], strict=True):
            assert shown[f"{prompt}, drawn by {made['name']}"] == image


def test_dense_leads_each_sheet_of_pictures(record):
    assert len([have for have in Page(report.html(record)).all("img") if "dense" in have["alt"]]) == 3 * len(PROMPTS)


def test_many_variants_are_spread_over_sheets_that_show_them_large(record):
    [dense, one, *_] = record["rows"]
    rows = [dense, *({**one, "name": f"variant {k}", "keep": 0.2} for k in range(12))]
    page = report.html({**record, "rows": rows})
    assert {int(n) for n in re.findall(r'class="sheet" role="table" style="--n: (\d+)"', page)} == {7}
    assert all(f"drawn by variant {k}" in page for k in range(12))
    assert len(re.findall(r"<h3>keep 0.2</h3>", page)) == 1


def test_best_of_each_keep_is_bold(record):
    figures = report.html(record).partition('class="figures"')[2].partition("</section>")[0]
    bold = re.findall(r'<th scope="row" role="rowheader">([^<]+)</th>|<strong>([^<]+)</strong>', figures)
    owners, name = {}, ""
    for head, strong in bold:
        name = head or name
        owners.setdefault(name, []).append(strong) if strong else None
    ranked = ("psnr_db", "ssim", "accuracy")
    for keep in KEEPS:
        rows = [made for made in record["rows"] if made["keep"] == keep]
        best = {max(rows, key=lambda made, key=key: made[key]["mean"])["name"] for key in ranked}
        best.add(min(rows, key=lambda made: made["frechet"])["name"])
        assert best == {f"DPM-Solver++, {round(50 * keep)} steps"}
        assert sorted(owners[best.pop()]) == sorted(
            [
                *(f"{rows[-1][key]['mean']:.{digits}f}" for key, digits in zip(ranked, (1, 3, 2), strict=True)),
                f"{rows[-1]['frechet']:.3g}",
            ]
        )


def test_sections_without_data_are_left_out(record):
    heads = [re.findall(r'<h2 id="(\w+)"', report.html(made)) for made in (record, benchmark(), memory())]
    assert heads == [["plots", "pictures", "figures", "schedules", "made"], ["figures"], ["figures"]]


def test_page_wants_whole_pictures():
    with pytest.raises(ValueError, match=r"names the picture one\.png"):
        report.html({"format": 1, "title": "x", "rows": [{"name": "a", "images": ["one.png"]}]})


def test_class_labels_are_captions():
    made = {"format": 1, "title": "x", "conditions": [7], "rows": [{"name": "a", "images": [picture(0, 0.0)]}]}
    assert "class 7" in Page(report.html(made)).words


def test_saved_page_is_the_page(record, tmp_path):
    report.save_html(record, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report.html(record)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report.save_html(record, tmp_path / "none" / "r.html")


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
            svg = report.grid_svg(made["grid"], names)
            ElementTree.fromstring(svg)
            wanted = {(t, i) for t, line in enumerate(made["grid"]) for i, cell in enumerate(line) if cell == "#"}
            assert cells(svg) == wanted


def test_grid_says_what_it_shows_and_labels_groups_of_many_blocks():
    names = layers()
    svg = report.grid_svg(["#" * 44, "." * 44, "#" * 22 + "." * 22, "." * 44], names)
    assert 'aria-label="2 of 4 calls enter the denoiser; 38% of the cells run"' in svg
    labels = re.findall(r'text-anchor="end">([^<]+)<', svg)
    assert labels == [*(f"down {i}" for i in range(4)), "mid", *(f"up {i}" for i in range(4))]
    assert re.findall(r"--held[^>]*d=\"([^\"]*)\"", svg) == ["M1 0h1v44h-1zM3 0h1v44h-1z"]


def test_grid_labels_transformers_by_kind():
    svg = report.grid_svg(["#" * 57], [f"transformer_blocks.{i}" for i in range(19)] + ["single_transformer_blocks.0"] * 38)
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


def test_page_plots_psnr_and_accuracy_with_one_series_per_group(record):
    plots = re.findall(r'<svg class="plot".*?</svg>', report.html(record))
    assert [re.search(r'aria-label="(\w+)', plot)[1] for plot in plots] == ["PSNR", "Prompt"]
    for plot in plots:
        assert len(re.findall(r"<title>", plot)) == 12
        assert {f"var(--series-{slot}" for slot in range(4)} <= set(re.findall(r"var\(--series-\d", plot))
        assert "--series-4" not in plot


def test_rows_of_one_budget_are_drawn_as_dots_not_on_one_line(record):
    [dense, *rows] = record["rows"]
    same = [row for row in rows if row["keep"] == 0.2]
    own = {**same[0], "name": "s & t", "group": "yours"}
    page = report.html(record | {"rows": [dense, own, *same[1:]]})
    plots = re.findall(r'<svg class="plot".*?</svg>', page)
    assert [re.search(r'aria-label="([^"]*)', plot)[1] for plot in plots] == [
        "PSNR to the dense images, dB by variant", "Prompt accuracy by variant",
    ]  # fmt: skip
    ElementTree.fromstring(plots[0])
    places = {float(cx): float(psnr) for psnr, cx in re.findall(r">([\d.]+)</text><path[^>]*/><circle cx=\"([\d.]+)", plots[0])}
    assert len(places) == 4
    assert sorted(places.values()) == [places[x] for x in sorted(places)]
    assert "Quality at the same cost" in page


def test_the_row_that_the_record_is_about_is_marked(record):
    [dense, one, *others] = record["rows"]
    for group, tag in (("yours", "yours"), ("Secateur", "ours"), ("Secateur, DDIM", "ours")):
        page = report.html(record | {"rows": [dense, {**one, "group": group}, *others]})
        assert f'role="rowheader">{one["name"]} <span class="tag">{tag}</span>' in page
        assert page.count('<tr role="row" class="own">') == 2  # in the table that is read, and in the folded one
    assert 'class="tag"' not in report.html(record)


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.0, 0.0), (0.5, 0.9), (12.3, 41.0), (1e-6, 3e-6)])
def test_plot_encloses_its_points(values):
    points = [Point(kept, value, None, "a") for kept, value in zip((0.2, 0.5), values, strict=True)]
    svg = plot_svg([points], Axis("quality", "g", dense=values[1]), ticks=[0.2, 1.0])
    places = [tuple(map(float, place)) for place in re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", svg)]
    assert len(places) == 2
    assert all(50 <= x <= 464 and 34 <= y <= 256 for x, y in places)
