"""A click-through in Chromium: draw, move the slider, download a schedule, load it, search, stop; faults; a second visitor."""

from __future__ import annotations

import re
import shutil

import pytest

import secateur
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
def address():
    with server("emoji-dit") as url:
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
    with page.expect_download() as download:
        page.get_by_role("button", name="Download schedule").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
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
