"""The page's files: all of them are served, with its policy, and nothing in them is elsewhere's."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import httpx
import pytest

from server.page import PAGE_FILES, POLICY
from server.schemas import NOT_BUILT, CompletionRequest
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import FakeEngine

WEB = files("server").joinpath("web")
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def text_of(name: str) -> str:
    return WEB.joinpath(name).read_text(encoding="utf-8")


async def test_every_file_is_served_as_what_it_is_and_with_the_policy(
    client: httpx.AsyncClient,
) -> None:
    """Browsers run no script whose type is another, because of nosniff."""
    for path, name in PAGE_FILES.items():
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert answer.text == text_of(name)
        assert answer.headers["content-type"].split(";")[0] == TYPES[name.split(".")[1]]
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_policy_allows_files_of_this_server_only() -> None:
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in POLICY
    assert "*" not in POLICY


def test_every_file_in_the_folder_has_a_path() -> None:
    """A module that is there but not served would break the page in a browser only."""
    in_folder = {entry.name for entry in WEB.iterdir()}
    assert set(PAGE_FILES.values()) == in_folder - {"docs.html"}


@pytest.mark.parametrize("name", sorted(PAGE_FILES.values()))
def test_nothing_is_fetched_from_elsewhere_and_nothing_is_inline(name: str) -> None:
    text = text_of(name).replace(SVG_NAMESPACE, "")
    assert not re.search(r"https?://|\burl\(|@import|//[a-z]+\.[a-z]", text)
    assert not re.search(
        r"<style|\sstyle=|\son[a-z]+=|javascript:|innerHTML|<script(?! type)", text
    )


@pytest.mark.parametrize("name", [name for name in PAGE_FILES.values() if name.endswith(".js")])
def test_what_a_module_imports_is_served(name: str) -> None:
    imported = set(re.findall(r'from "\./([a-z]+\.js)"', text_of(name)))
    assert imported <= set(PAGE_FILES.values())


def test_the_page_names_only_elements_that_it_has() -> None:
    """An id that a script asks for and the page lacks is an error at some click."""
    page = text_of("index.html")
    ids = re.findall(r'\sid="([a-z-]+)"', page)
    assert len(ids) == len(set(ids))
    scripts = "".join(text_of(name) for name in PAGE_FILES.values() if name.endswith(".js"))
    asked = set(re.findall(r'(?:getElementById|byId|show)\("([a-z-]+)"', scripts))
    assert asked
    assert asked <= set(ids)
    described = re.findall(r'(?:for|aria-controls|aria-labelledby|aria-describedby)="(.*?)"', page)
    assert set(described) <= set(ids)


def test_what_the_controls_allow_the_route_takes() -> None:
    """Names, bounds and defaults are written twice: here they are compared."""
    known = CompletionRequest.model_json_schema()["properties"]
    lines = re.findall(r"^  \{ (name: .*?) \},$", text_of("controls.js"), re.MULTILINE)
    assert len(lines) == text_of("controls.js").count("name: ")
    for line in lines:
        field = dict(part.split(": ") for part in line.split(", "))
        name = json.loads(field["name"])
        if name in NOT_BUILT:
            continue
        least, most = float(field["min"]), float(field["max"])
        bounds = known[name]
        assert bounds.get("minimum", bounds.get("exclusiveMinimum", least)) <= least, name
        assert most <= bounds.get("maximum", most), name
        assert float(field["api"]) == bounds["default"], name
        assert least <= float(field["start"]) <= most, name


async def test_the_page_needs_no_key_and_what_it_asks_does() -> None:
    app = make_app(FakeEngine(), api_key=("k" * 16,))
    async with client_of(app) as client:
        for path in PAGE_FILES:
            assert (await client.get(path)).status_code == 200, path
        for path in ("/v1/models", "/page/", "/page/docs.html", "/page/../v1/models"):
            assert (await client.get(path)).status_code == 401, path


async def test_models_tell_how_many_slots_are_in_use(client: httpx.AsyncClient) -> None:
    """What the page's strip shows without the right to read /metrics."""
    model = (await client.get("/v1/models")).json()["data"][0]
    assert model["num_slots_in_use"] == 0
    assert model["num_waiting"] == 0
