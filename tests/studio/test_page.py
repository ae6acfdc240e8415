"""The page as a browser gets it: who may reach it, and what cannot be asked for beside it."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request

import pytest

import secateur
from commands import refused
from secateur.cli import studio
from studios import server

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def address():
    """Of a studio in a process of its own: what gradio leaves open ends with it."""
    with server("mine/own") as url:
        yield url


def asked(url: str, *, data: dict | None = None, **headers: str) -> tuple[int, str]:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_is_there_under_its_own_name_alone(address):
    assert asked(address)[0] == 200
    assert asked(address, Host="elsewhere.example")[0] == 400  # a name of someone else's that leads to this machine


def test_an_address_with_a_pipe_in_it_changes_nothing(address):
    values = [
        [part["props"].get("value") for part in json.loads(asked(url)[1])["components"]]
        for url in (f"{address}config", f"{address}config?source=owner/name&pipe=owner/name")
    ]
    assert values[0] == values[1]
    assert "mine/own" in values[0]


def test_the_pages_of_others_can_ask_for_nothing(address):
    own = address.removesuffix("/")
    codes = [asked(f"{address}gradio_api/queue/join", data={}, **headers)[0] for headers in ({}, {"Origin": own})]
    assert set(codes) == {422}  # it is read, and lacks everything
    for origin in ("https://elsewhere.example", "http://127.0.0.1:1", "null"):
        assert asked(f"{address}gradio_api/queue/join", data={}, Origin=origin)[0] == 403


def test_a_file_that_was_not_uploaded_is_not_opened(address):
    file = {"path": secateur.__file__, "meta": {"_type": "gradio.FileData"}}
    event = asked(f"{address}gradio_api/call/load", data={"data": ["emoji-dit", None, "7", 2, 4, 0, None, file]})[1]
    told = asked(f"{address}gradio_api/call/load/{json.loads(event)['event_id']}")[1]
    assert told.startswith("event: error")


@pytest.mark.parametrize("path", ["/etc/passwd", secateur.__file__, "pyproject.toml"])
def test_files_of_the_machine_are_not_served(address, path):
    assert asked(f"{address}gradio_api/file={path}")[0] in (403, 404)


def test_a_port_that_is_taken_is_said(address, run):
    port = address.rstrip("/").rpartition(":")[2]
    refused(run("studio", "--port", port), f"nothing can listen at 127.0.0.1:{port}: give another port by --port")


def test_without_gradio_the_command_says_how_to_install_it(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "secateur.studio.app", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(run("studio"), studio.MISSING)


def test_a_pipe_that_is_not_there_is_refused_before_the_page_opens(run):
    refused(run("studio", "no-such-pipe"), "the zoo has no pipeline 'no-such-pipe'")
