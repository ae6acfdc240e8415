"""The page of a record, read back from its HTML, and used in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from importlib.resources import files

import pytest

from made_records import KEEPS, PROMPTS, STAGES, Page, benchmark, comparison, memory, picture
from secateur.measuring import report
from secateur.measuring.svg import MOST_SERIES

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NASTY = "</script></style><b onclick='x'>\"&'<!--"


@pytest.fixture(scope="module")
def record() -> dict:
    return comparison(STAGES)


def yours(record: dict, name: str = "my_schedule", *, budgets: int = 1) -> dict:
    """The record as `compare` makes it: rivals and the user's schedule, the last and the worst of all rows."""
    [dense, *rows] = record["rows"]
    rivals = [row for row in rows if row["keep"] in list(KEEPS)[-budgets:]]
    own = {**rivals[-4], "name": name, "group": "yours", "psnr_db": {"mean": 9.0}, "timesteps": [999.0, 500.0]}
    return record | {"title": f"{name} on emoji-sd", "rows": [dense, *rivals, own]}


def everywhere(value, say: str, *, key: str = ""):
    """The record with all that is free text in it replaced by something said."""
    if isinstance(value, dict):
        return {k: everywhere(v, say, key=k) for k, v in value.items()}
    if isinstance(value, list):
        return value if key == "grid" else [everywhere(one, say, key=key) for one in value]
    fixed = not isinstance(value, str) or key in ("images", "group")
    return value if fixed else f"{value} {say}"


def named(page: str, opening: str) -> list[str]:
    """The text of each element that begins so, without its tag."""
    return [part.replace("<wbr>", "").strip() for part in re.findall(opening + r"(.*?)(?= <span|</)", page, re.S)]


def test_page_is_well_formed_and_reaches_for_nothing(record):
    text = report.html(record)
    page = Page(text)
    sources = [value for _, have in page.tags for key, value in have.items() if key in ("src", "href", "srcset", "action")]
    assert len(sources) >= 15 * len(PROMPTS)
    assert all(source.startswith("data:image/") for source in sources)
    assert not page.all("link")
    assert not re.search(r"https?://|url\(|@import|fetch\(", re.sub(r"base64,[^\"]*", "", text))


def test_the_only_script_is_the_one_that_is_shipped(record):
    said = re.findall(r"<script>(.*?)</script>", report.html(yours(record)), re.S)
    assert said == ["\n" + files("secateur.measuring").joinpath("report.js").read_text()]


@pytest.mark.parametrize("budgets", [1, 2])
def test_whatever_a_record_says_the_page_has_the_same_tags(record, budgets):
    plain, nasty = (Page(report.html(everywhere(yours(record, budgets=budgets), say))) for say in ("plain", NASTY))
    tags = [[(tag, list(have)) for tag, have in page.tags if tag != "wbr"] for page in (plain, nasty)]
    assert tags[0] == tags[1]
    assert "".join(nasty.words).count(NASTY) > 20


def test_every_picture_says_what_it_is_and_stands_in_its_row(record):
    page = Page(report.html(record))
    shown = {have["alt"]: have["src"] for have in page.all("img") if "src" in have}
    assert len(shown) == len(PROMPTS) * len(record["rows"])
    for made in record["rows"]:
        for prompt, image in zip(PROMPTS, made["images"], strict=True):
            assert shown[f"{prompt}, drawn by {made['name']}"] == image


def test_rows_of_one_budget_are_bars_as_long_as_their_figures(record):
    made = yours(record)
    page = report.html(made)
    assert 'class="plot"' not in page
    psnr, accuracy = re.findall(r'<ul class="bars".*?</ul>', page, re.S)
    for chart, key, form in ((psnr, "psnr_db", "{:.1f}"), (accuracy, "accuracy", "{:.2f}")):
        lengths = dict(zip(named(chart, '<span class="name">'), re.findall(r'<i style="width: ([\d.]+)%', chart), strict=True))
        values = {row["name"]: row[key]["mean"] for row in made["rows"][1:]}
        assert lengths.keys() == values.keys()
        scale = {float(lengths[name]) / value for name, value in values.items()}
        assert max(scale) == pytest.approx(min(scale), rel=1e-3)
        assert sorted(named(chart, '<span class="value">')) == sorted(form.format(value) for value in values.values())
    assert "--dense" in accuracy
    assert "--dense" not in psnr


def test_rows_of_several_budgets_are_plotted_with_one_series_per_group(record):
    plots = re.findall(r'<svg class="plot".*?</svg>', report.html(record))
    assert [re.search(r'aria-label="(\w+)', plot)[1] for plot in plots] == ["PSNR", "SSIM", "Prompt"]
    for plot in plots:
        ElementTree.fromstring(plot)
        assert sorted(re.findall(r"<title>(.*?): ", plot)) == sorted(row["name"] for row in record["rows"][1:])
        assert sorted(re.findall(r'data-series="(\d+)"', plot)) == ["0", "1", "2", "3"]


def test_the_rows_that_the_record_is_about_come_first_by_their_names(record):
    for budgets in (1, 2):
        made = yours(record, budgets=budgets)
        page = report.html(made)
        firsts = [
            named(page, "<h1>")[0].removesuffix(" on emoji-sd"),
            named(page, r'<span class="name">' if budgets == 1 else r'<button type="button" data-series="0".*?</svg>')[0],
            named(page.partition("keep 0.2</h3>")[2], r'<th scope="col" role="columnheader"[^>]*>')[1],  # after dense
            named(page.partition("keep 0.2</th>")[2], r'<th scope="row" role="rowheader">')[0],
            named(page, "<figcaption>")[0 if budgets == 2 else 2],
        ]
        assert firsts == ["my_schedule"] * len(firsts), budgets
        assert 'aria-label="2 calls, at the timesteps 999 500"' not in page  # cells that are reused say more
        assert report.headline(made).partition(" is ")[0].endswith("my_schedule")


def test_a_schedule_of_whole_calls_is_drawn_by_its_timesteps(record):
    made = yours(record)
    made["rows"][-1]["grid"] = ["#" * len(STAGES)] * 2
    section = report.html(made).partition('id="schedules"')[2]
    assert section.index('aria-label="2 calls, at the timesteps 999 500"') < section.index("<details>")


def test_twenty_series_have_marks_and_the_others_are_counted(record):
    [dense, one, *_] = record["rows"]
    keeps = (0.5, 0.2)
    rows = [{**one, "name": f"way {k} at {keep}", "group": f"way {k}", "keep": keep, "keep_linear": keep,
             "psnr_db": {"mean": 40.0 - k}, "images": None} for k in range(25) for keep in keeps]  # fmt: skip
    page = report.html(record | {"rows": [dense | {"images": None}, *reversed(rows)]})
    assert named(page, r'<button type="button" data-series="\d+" aria-pressed="false">.*?</svg>') == [
        *(f"way {k}" for k in range(MOST_SERIES)), "5 more",
    ]  # fmt: skip
    [plot] = re.findall(r'<svg class="plot".*?</svg>', page)
    assert sorted(re.findall(r"<title>(.*?): ", plot)) == sorted(row["name"] for row in rows)
    swatches = re.findall(r'<svg class="swatch".*?</svg>', page)
    assert len({re.sub(r"var\([^)]*\)", "", swatch) for swatch in swatches}) == MOST_SERIES + 1


def test_a_series_has_one_dot_at_a_budget_and_a_users_schedule_is_its_own(record):
    [dense, one, other, *_] = record["rows"]
    seeds = [{**one, "name": f"seed {k}", "psnr_db": {"mean": 30.0 + k, "ci95": [28.0, 36.0 + k]}} for k in range(3)]
    two = [{**one, "name": name, "group": "yours", "psnr_db": {"mean": 20.0}} for name in ("a", "DeepCache")]
    page = report.html(record | {"rows": [dense, *seeds, *two, {**other, "keep": 0.2, "keep_linear": 0.2}]})
    plot = re.findall(r'<svg class="plot".*?</svg>', page)[0]
    titles = re.findall(r"<title>(.*?)</title>", plot)
    assert sorted(titles) == sorted(
        ["uniform, mean of 3: 31 at 50%", "a: 20 at 50%", "DeepCache: 20 at 50%",
         f"{other['name']}: {other['psnr_db']['mean']:.3g} at 20%"]
    )  # fmt: skip


def test_names_break_after_underscores_and_never_before_a_unit(record):
    page = report.html(yours(record, "a_b<c"))
    assert "<h1>a_<wbr>b&lt;c on emoji-sd</h1>" in page
    assert "9.0\N{NO-BREAK SPACE}dB PSNR" in page


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


def test_the_row_that_the_record_is_about_is_marked(record):
    [dense, one, *others] = record["rows"]
    for group, tag in (("yours", "yours"), ("Secateur", "ours"), ("Secateur, DDIM", "ours")):
        page = report.html(record | {"rows": [dense, {**one, "group": group}, *others]})
        assert f'role="rowheader">{one["name"]} <span class="tag">{tag}</span>' in page
        assert page.count('<tr role="row" class="own">') == 2  # in the table that is read, and in the folded one
    assert 'class="tag"' not in report.html(record)


# the page in a browser


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """A function (page, script, width) -> what the script returned, run in a frame of that width in Chromium."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    folder = tmp_path_factory.mktemp("browser")

    def browse(page: str, script: str, width: int = 1400) -> list[str]:
        run = (
            f"const frame = document.querySelector('iframe'), doc = frame.contentDocument, win = frame.contentWindow; {script}"
        )
        frame = f"<iframe style='width:{width}px;height:900px' srcdoc='{html.escape(page)}'></iframe><pre></pre>"
        told = f"document.querySelector('pre').textContent = JSON.stringify((() => {{ {run} }})())"
        (folder / "page.html").write_text(f"{frame}<script>onload = () => {{ {told} }}</script>", encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder}/profile",
            "--virtual-time-budget=5000",
        ]
        done = subprocess.run(
            [CHROMIUM, *flags, "--window-size=1500,1000", "--dump-dom", f"file://{folder}/page.html"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", done.stdout, re.S)[1]))

    return browse


LIGHTBOX = """
const [prompt, first, second] = doc.querySelectorAll("dialog select"), flip = doc.querySelector(".flip"), seen = [];
const note = () => seen.push([...flip.querySelectorAll("img")].filter((one) => !one.hidden).map((one) => one.alt).join());
const key = (name) => { flip.dispatchEvent(new win.KeyboardEvent("keydown", { key: name, bubbles: true })); note(); };
const swipe = (x, y) => {
  flip.dispatchEvent(new win.PointerEvent("pointerdown", { clientX: 200, clientY: 200 }));
  flip.dispatchEvent(new win.PointerEvent("pointerup", { clientX: 200 + x, clientY: 200 + y }));
  note();
};
seen.push(String(doc.querySelector("dialog").open));
doc.querySelector('[data-row="2"][data-image="1"]').click(); note();
flip.click(); note();
flip.click(); note();
key("ArrowRight"); key("ArrowLeft"); key("ArrowDown"); key("ArrowUp");
swipe(-90, 5); swipe(90, 5); swipe(5, -90); swipe(5, 90);
second.value = "3"; second.dispatchEvent(new win.Event("change")); note();
seen.push(doc.querySelector(".seen").textContent, String(doc.querySelector("dialog").open));
doc.querySelector("dialog form button").click();
seen.push(String(doc.querySelector("dialog").open));
return seen;
"""


def test_a_picture_is_flipped_with_another_by_click_key_and_touch(record, browse):
    made = yours(record)
    dense, *_ = names = [row["name"] for row in made["rows"]]
    near = sorted(made["rows"][1:-1], key=lambda row: -row["psnr_db"]["mean"])
    after = {row["name"]: near[k + 1]["name"] for k, row in enumerate(near[:-1])}
    one, two = PROMPTS[1:3]
    said = browse(report.html(made), LIGHTBOX)
    start, beside = f"{one}, drawn by {names[2]}", f"{one}, drawn by {dense}"
    right, down = f"{one}, drawn by {after[names[2]]}", f"{two}, drawn by {names[2]}"
    assert said[:-3] == ["false", start, beside, start, right, start, down, start, right, start, down, start,
                         f"{one}, drawn by {names[3]}"]  # fmt: skip
    psnr = f"{made['rows'][3]['psnr_db']['mean']:.1f} dB"
    assert said[-3].replace("\N{NO-BREAK SPACE}", " ").startswith(f"{names[3]}: 20 % MACs · {psnr} · SSIM 0.")
    assert said[-2:] == ["true", "false"]


FITS = """
for (const fold of doc.querySelectorAll("details")) fold.open = true;
doc.querySelector("td:nth-child(3) button").click();
const wrong = [];
for (const one of doc.querySelectorAll("body *")) {
  const { left, right, width } = one.getBoundingClientRect();
  if (width && !one.closest("svg") && (left < -1 || right > win.innerWidth + 1)) wrong.push(`cut: ${one.tagName}`);
}
const walk = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode;
  if (node.parentNode.closest("svg, pre, dd, select, script")) continue;
  for (const word of node.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
    const range = doc.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    const boxes = [...range.getClientRects()];
    if (new Set(boxes.map((box) => Math.round(box.top))).size > 1) wrong.push(`broken: ${word[0]}`);
    if (boxes.some((box) => box.right > win.innerWidth)) wrong.push(`cut: ${word[0]}`);
  }
}
return [...new Set(wrong)];
"""


@pytest.mark.parametrize("budgets", [1, 2])
def test_at_420_px_nothing_is_cut_and_no_word_is_broken(record, browse, budgets):
    page = report.html(yours(record, "schedule_of_a_long_tuesday_afternoon_with_rain_and_tea", budgets=budgets))
    assert browse(page, FITS, 420) == []
    assert browse(page.replace("</style>", ".name, th { word-break: break-all; } main { width: 500px }</style>"), FITS, 420)


def test_a_series_lights_up_with_its_entry_in_the_legend(record, browse):
    script = """
    const entry = doc.querySelector('.legend [data-series="2"]');
    entry.dispatchEvent(new win.PointerEvent("pointerenter"));
    const lit = [...doc.querySelectorAll("svg [data-series].on")].map((one) => one.dataset.series);
    entry.dispatchEvent(new win.PointerEvent("pointerleave"));
    return [lit, doc.querySelectorAll(".lit, .on").length];
    """
    assert browse(report.html(record), script) == [["2", "2", "2"], 0]
