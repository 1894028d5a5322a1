"""Everything about the page but writing: tasks, errors, keys, code, theme, keyboard, pictures."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import KEY
from tests.browser.desk import PROMPT, WAIT_MS, Desk
from tests.support.live_server import LiveServer

pytestmark = pytest.mark.browser

MAX_PICTURE_BYTES = 250_000
REVIEW = "A gripping film with a great cast, and a story that never lets go."


def classify(desk: Desk, task: str, *texts: str) -> None:
    desk.page.get_by_role("tab", name="Classify").click()
    desk.page.locator("#task").select_option(task)
    for place, text in enumerate(texts):
        desk.page.locator("#parts textarea").nth(place).fill(text)
    desk.page.locator("#classify-run").click()
    expect(desk.page.locator("#verdict .bars")).to_be_visible()


def test_a_text_is_classified(desk: Desk) -> None:
    classify(desk, "sentiment", REVIEW)
    expect(desk.page.locator("#verdict h2")).to_have_text("positive")
    assert desk.page.locator(".bars li").count() == 2


def test_the_other_forms(desk: Desk) -> None:
    classify(desk, "nli", "The old man sat by the fire.", "Somebody was warm.")
    assert desk.page.locator(".bars li").count() == 3
    classify(desk, "sts", "A dog ran.", "A hound ran.")
    assert desk.page.locator(".bars li").count() == 1
    desk.page.locator("#task").select_option("copa")
    desk.page.get_by_role("button", name="One more choice").click()
    classify(desk, "copa", "The ship sank.", "It had a leak.", "It was blue.")
    expect(desk.page.locator(".bars li").first).to_contain_text("It had a leak.")


def test_a_refused_classification_is_told(desk: Desk) -> None:
    desk.page.get_by_role("tab", name="Classify").click()
    desk.page.locator("#task").select_option("nli")
    desk.page.locator("#classify-run").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("premise")


def test_a_server_that_is_full_says_when_to_come_again(desk: Desk) -> None:
    desk.page.clock.install()
    desk.write()
    desk.set(max_tokens=4, seed=1)
    desk.refuse(429, "the queue holds 256 requests, its limit", Retry_After="3")
    desk.page.locator("#run").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("the queue holds 256 requests")
    again = desk.page.locator("#notice-action")
    expect(again).to_be_disabled()
    expect(again).to_have_text("Try again in 3 s")
    desk.page.clock.run_for(3_100)
    expect(again).to_have_text("Try again")
    again.click()
    desk.page.clock.resume()
    expect(desk.tokens).to_have_count(4, timeout=WAIT_MS)


def test_a_stream_without_an_end_mark_is_an_error(desk: Desk) -> None:
    desk.page.route(
        "**/v1/completions",
        lambda route: route.fulfill(status=200, body="", content_type="text/event-stream"),
    )
    desk.page.locator("#run").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("broke off")
    desk.wait()


def test_an_error_within_a_stream_keeps_what_was_there(desk: Desk) -> None:
    choice = {"index": 0, "text": " sat", "logprobs": None, "finish_reason": None, "seed": 1}
    desk.answer({"choices": [choice]}, {"error": {"message": "the engine was given up"}})
    desk.write()
    desk.page.locator("#run").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("the engine was given up")
    desk.wait()
    assert desk.text == PROMPT + " sat"


def test_a_key_is_asked_for_and_kept_in_this_tab_only(page: Page, keyed_server: LiveServer) -> None:
    page.goto(f"{keyed_server.url}/")
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("needs a key")
    page.keyboard.type("sk-wrong-0123456789")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("key is not known")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#served")).to_have_text("bundled")
    desk = Desk(page)
    desk.write()
    desk.set(max_tokens=4, seed=1)
    desk.run()
    assert desk.tokens.count() == 4
    expect(page.locator("#slots")).to_have_text(re.compile(r"^\d+ / \d+$"))
    page.get_by_text("The same as code").click()
    snippet = page.locator("#snippet").text_content() or ""
    assert "$GPT2_SERVER_KEY" in snippet
    assert KEY not in page.content()
    assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [
        *(0, 1, "")
    ]
    page.locator("#key-button").click()
    page.locator("#key-forget").click()
    expect(dialog).to_contain_text("needs a key")
    assert page.evaluate("() => sessionStorage.length") == 0


def test_the_code_is_the_request(desk: Desk) -> None:
    """What a shell and Python make of it is what the page sends."""
    desk.write('It\'s "dark" \\ $HOME\nnow 🙂')
    desk.set(max_tokens=3, seed=7, stops="\\n\\n")
    desk.page.get_by_text("The same as code").click()
    command = desk.page.locator("#snippet").text_content() or ""
    words = shlex.split(command.replace("\\\n", " "))
    body = json.loads(words[words.index("-d") + 1])
    assert body == {
        "prompt": 'It\'s "dark" \\ $HOME\nnow 🙂',
        "max_tokens": 3,
        "temperature": 0.8,
        "top_k": 40,
        "seed": 7,
        "stop": ["\n\n"],
        "stream": True,
    }
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert ran.stdout.rstrip().endswith("data: [DONE]")
    desk.page.locator("#as-python").click()
    program = desk.page.locator("#snippet").text_content() or ""
    assert 'extra_body={"top_k":40}' in program
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    desk.set(stops="\\n\\n")
    desk.run()
    assert desk.text.endswith(printed.stdout.decode())
    assert printed.stdout


def test_copy(desk: Desk) -> None:
    desk.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    desk.page.get_by_text("The same as code").click()
    desk.page.locator("#copy").click()
    expect(desk.page.locator("#copy")).to_have_text("Copied")
    copied = desk.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == desk.page.locator("#snippet").text_content()


def test_the_theme_is_the_systems_or_ones_own(desk: Desk) -> None:
    def ground() -> str:
        found: str = desk.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return found

    desk.page.emulate_media(color_scheme="light")
    light = ground()
    desk.page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    desk.page.locator("#theme").click()
    assert ground() == light
    desk.page.reload()
    assert ground() == light
    desk.page.locator("#theme").click()
    assert ground() == dark


def test_tab_order_and_names(desk: Desk) -> None:
    """Everything that can be done has a name, and is reached without a pointer."""
    unnamed = desk.page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select')]
        .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())
        .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    desk.page.locator("#tab-write").focus()
    desk.page.keyboard.press("ArrowRight")
    expect(desk.page.locator("#classify")).to_be_visible()
    desk.page.keyboard.press("ArrowLeft")
    reached = []
    for _ in range(6):
        desk.page.keyboard.press("Tab")
        reached.append(desk.page.evaluate("() => document.activeElement.id || 'summary'"))
    assert reached == ["key-button", "theme", "text", "run", "summary", "max_tokens"]
    outline = desk.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_facts(desk: Desk) -> None:
    desk.page.get_by_text("Model and server").click()
    facts = desk.page.locator("#facts")
    for fact in ("8 layers, 256 channels", "1,024 tokens", "cpu", "fp_"):
        expect(facts).to_contain_text(fact)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pictures(desk: Desk, pictures: Path, theme: str, width: int) -> None:
    """With a real result on them; nothing is wider than the window."""
    page = desk.page
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 900 if width > 600 else 844})
    page.reload()
    expect(page.locator("#served")).to_have_text("bundled")
    if width < 600:
        page.get_by_text("Sampling").click()
    desk.write()
    desk.set(seed=3, max_tokens=110)
    if width < 600:
        page.get_by_text("Sampling").click()
    desk.run()
    expect(page.locator("#slots")).to_have_text(re.compile(r"^0 / \d+$"))
    assert_fits(page, width)
    desk.hover(16)
    take(page, pictures / f"page-{width}-{theme}.png")
    if theme == "light":
        page.mouse.move(2, 2)
        classify(desk, "sentiment", REVIEW)
        assert_fits(page, width)
        take(page, pictures / f"page-classify-{width}.png")
        return
    page.mouse.move(2, 2)
    page.locator("#settings").evaluate("one => { one.open = true; }")
    desk.set(n=3, max_tokens=40)
    desk.run()
    assert_fits(page, width)
    take(page, pictures / f"page-samples-{width}.png")


def assert_fits(page: Page, width: int) -> None:
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def take(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    assert path.stat().st_size < MAX_PICTURE_BYTES
