"""A click-through in Chromium: draw, move the slider, download a schedule, load it, search, stop, push; a second visitor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import secateur
from local_hub import TOKEN, serving
from studios import server

pytestmark = pytest.mark.browser
SLOW_MS = 60_000
THREE = "document.querySelectorAll('.three img').length == 3 && !document.querySelector('progress')"


@pytest.fixture(scope="module")
def browser():
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        window = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield window
        window.close()


@pytest.fixture(scope="module")
def place():
    """A Hub on this machine, the only one that the studio knows."""
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def env(place, tmp_path_factory) -> dict[str, str]:
    home = str(tmp_path_factory.mktemp("hf"))
    return {"HF_ENDPOINT": place.url, "HF_HOME": home, "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def token(env):
    """The file where `hf auth login` writes one, as somebody who may write."""
    file = Path(env["HF_HOME"]) / "token"
    file.write_text(TOKEN)
    return file


@pytest.fixture(scope="module")
def address(env):
    with server("emoji-dit", env=env) as url:
        yield url


@pytest.fixture
def page(browser, address):
    visit = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True).new_page()
    visit.set_default_timeout(SLOW_MS)
    outside: list[str] = []
    visit.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    visit.goto(address)
    visit.get_by_role("button", name="Steps, seed, guidance").click()
    visit.get_by_label("Steps of all calls").fill("10")
    visit.keyboard.press("Tab")
    visit.get_by_label("number input for Budget").fill("5")
    yield visit
    visit.context.close()
    assert {url for url in outside if not url.startswith(address)} == set()


def draw(page) -> None:
    page.get_by_role("button", name="Draw").click()
    ready(page, "10 steps")


def ready(page, words: str) -> None:
    page.locator(".three", has_text=words).wait_for()
    page.wait_for_function(THREE)


def said(page, words: str) -> str:
    line = page.locator(".said", has_text=words)
    line.wait_for()
    return line.inner_text()


def downloaded(page, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download schedule").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def push(page, repo: str) -> None:
    if not page.get_by_label("Repository").is_visible():
        page.get_by_role("button", name="Push to the Hub").click()
    page.get_by_label("Repository").fill(repo)
    page.get_by_role("button", name="Push the schedule").click()


def test_draw_choose_download_load(page, tmp_path):
    draw(page)
    said(page, "evenly spread")
    dense = page.locator(".three img").first.get_attribute("src")
    slider = page.locator("input[type=range]").first
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    ready(page, "DPM-Solver++, 3 steps")
    assert page.locator(".three img").first.get_attribute("src") == dense
    assert page.locator("svg.levels path").count() == 6  # a foot and marks for each picture
    said(page, "evenly spread")
    path = downloaded(page, tmp_path)
    assert path.name == "emoji-dit-3-of-10.json"
    assert sum(not secateur.load(path).held(t) for t in range(10)) == 3

    page.reload()
    page.locator("input[type=file]").set_input_files(path)
    ready(page, "as loaded")
    assert page.get_by_label("number input for Budget").input_value() == "3"
    page.get_by_role("button", name="Steps, seed, guidance").click()
    assert page.get_by_label("Steps of all calls").input_value() == "10"


def test_faults_are_sentences_in_the_page(page, tmp_path):
    draw(page)
    (tmp_path / "wrong.json").write_text("[1]")
    page.locator("input[type=file]").set_input_files(tmp_path / "wrong.json")
    assert said(page, "holds a list").startswith("wrong.json: ")
    page.get_by_label("Prompt", exact=True).fill("a cow in Paris")
    page.get_by_role("button", name="Draw").click()
    said(page, "does not know the scene 'a cow in Paris'")
    assert page.locator(".three img").count() == 3  # those drawn before


def test_a_search_is_seen_and_its_schedule_is_drawn(page):
    page.get_by_role("button", name="Search for a schedule").click()
    page.get_by_label("number input for Budget").fill("9")
    page.get_by_label("number input for Calibration images").fill("1")
    page.get_by_role("button", name="Search at this budget").click()
    said(page, "recording the dense images")
    page.locator("svg.plot").wait_for()
    ready(page, "found by search")
    assert page.locator("td", has_text="additive").count() == 1


def test_a_second_visitor_waits_until_the_first_has_stopped(page, browser, address):
    page.get_by_label("Steps of all calls").fill("900")
    page.get_by_label("number input for Budget").fill("2")
    page.get_by_role("button", name="Draw").click()
    said(page, "of 900")
    other = browser.new_context().new_page()
    other.set_default_timeout(SLOW_MS)
    other.goto(address)
    other.get_by_role("button", name="Draw").click()
    other.get_by_text(re.compile(r"queue: \d")).wait_for()
    page.get_by_role("button", name="Stop").click()
    ready(other, "found by search")
    assert said(page, "Stopped.")
    assert page.locator(".three img").count() == 0


def test_the_schedule_that_was_drawn_is_pushed_and_loads_equal(page, place, env, token, tmp_path):
    draw(page)
    push(page, " me/owl ")
    source = said(page, "Pushed to").removeprefix("Pushed to ")
    assert source == f"me/owl@{place.repos['me/owl'].commits[-1][0]}"
    assert place.repos["me/owl"].private
    code = "import secateur; secateur.load('me/owl').save('theirs.json')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, cwd=tmp_path, check=True)
    drawn = secateur.load(downloaded(page, tmp_path))
    assert secateur.load(tmp_path / "theirs.json") == replace(drawn, made={**drawn.made, "hub": source})


def test_a_push_that_is_refused_is_a_sentence_in_the_page(page, place, token):
    place.repos.clear()
    push(page, "me/owl")
    said(page, "there is no schedule to push: draw pictures first")
    draw(page)
    for repo, known, says in (
        ("owl", TOKEN, "found 'owl' for a repository on the Hub: give owner/name"),
        ("them/owl", TOKEN, "your Hub token may not do this to them/owl: take one that may"),
        ("me/owl", "", "there is no Hub token here"),
    ):
        token.write_text(known)
        push(page, repo)
        assert said(page, says).startswith(says)
        assert page.locator(".fault").count() == 1
        assert not re.search("Traceback|Error", page.locator("body").inner_text())
    assert place.repos == {}


def test_what_is_said_of_a_push_stands_whole_below_its_button_in_a_narrow_window(page, token):
    page.set_viewport_size({"width": 420, "height": 1000})
    draw(page)
    push(page, 90 * "o")
    said(page, "found 'ooo")
    line = page.locator(".said")
    assert line.evaluate("line => line.scrollWidth <= line.clientWidth")
    assert line.bounding_box()["y"] < page.locator(".three").bounding_box()["y"]
