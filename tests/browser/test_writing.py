"""Writing with the page: type, stream, stop, undo, replay, pick an alternative, several samples."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from tests.browser.desk import PROMPT, WAIT_MS, Desk
from tests.support.live_server import LiveServer

pytestmark = pytest.mark.browser


def completion(server: LiveServer, **body: object) -> str:
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_the_text_is_what_the_route_says(desk: Desk, server: LiveServer) -> None:
    desk.write()
    desk.set(seed=3, max_tokens=32)
    desk.run()
    told = completion(
        server, prompt=PROMPT, seed=3, max_tokens=32, temperature=0.8, top_k=40, stream=False
    )
    assert desk.text == PROMPT + told
    assert desk.tokens.count() == 32
    assert "".join(desk.tokens.all_text_contents()) == told


def test_it_streams_and_stops(desk: Desk) -> None:
    """Escape ends a long one; what was there by then stays, and can be gone on from."""
    desk.write()
    desk.set(max_tokens=900, seed=1)
    desk.page.locator("#text").press("Control+Enter")
    expect(desk.page.locator("#tail .token").nth(3)).to_be_visible(timeout=WAIT_MS)
    assert desk.text == PROMPT
    expect(desk.page.locator("#stop")).to_be_enabled()
    desk.page.keyboard.press("Escape")
    desk.wait()
    assert 4 <= desk.tokens.count() < 900
    expect(desk.page.locator("#ended")).to_have_text("stopped")
    desk.set(max_tokens=4)
    before = desk.text
    desk.run()
    assert desk.text.startswith(before)


def test_going_on_sends_the_ids_that_stand_there_and_typed_text_as_text(desk: Desk) -> None:
    """Text that is encoded anew may come to other tokens than those that were drawn."""
    seen = desk.seen_requests()
    desk.write()
    desk.set(max_tokens=6, seed=5)
    desk.run()
    desk.run()
    desk.page.locator("#text").press("Control+End")
    desk.page.keyboard.type(" Then")
    desk.run()
    prompts = [body["prompt"] for body in seen]
    assert prompts[0] == PROMPT
    assert isinstance(prompts[1], list)
    assert isinstance(prompts[2], str)
    assert prompts[2].endswith(" Then")


def test_undo_takes_a_continuation_back_and_redo_brings_it(desk: Desk) -> None:
    desk.page.locator("#text").click()
    desk.page.keyboard.type(PROMPT)
    desk.set(max_tokens=8, seed=2)
    desk.run()
    whole = desk.text
    desk.page.locator("#text").focus()
    desk.page.keyboard.press("Control+z")
    assert desk.text == PROMPT
    assert desk.tokens.count() == 0
    desk.page.keyboard.press("Control+Shift+z")
    assert desk.text == whole
    assert desk.tokens.count() == 8


def test_an_edit_takes_the_colours_behind_it(desk: Desk) -> None:
    desk.write()
    desk.set(max_tokens=8, seed=2)
    desk.run()
    desk.page.locator("#text").press("Control+Home")
    desk.page.keyboard.type("x")
    assert desk.tokens.count() == 0
    desk.page.keyboard.press("Backspace")
    assert desk.tokens.count() == 8


def test_paste_is_plain_text(desk: Desk) -> None:
    desk.page.locator("#text").click()
    desk.page.locator("#text").evaluate(
        "area => document.execCommand('insertText', false, '<b>x</b>')"
    )
    assert desk.text == "<b>x</b>"
    expect(desk.page.locator(".mirror")).to_contain_text("<b>x</b>")
    assert desk.page.locator(".mirror b").count() == 0


def test_replay_gives_the_same_text(desk: Desk) -> None:
    """No seed was set: the one that was drawn is shown, and sent again."""
    seen = desk.seen_requests()
    desk.write()
    desk.set(max_tokens=24)
    desk.run()
    first = desk.text
    desk.page.locator("#text").press("Control+End")
    desk.page.keyboard.type(" and more")
    desk.page.locator("#replay").click()
    desk.wait()
    assert desk.text == first
    assert "seed" not in seen[0]
    assert str(seen[1]["seed"]) == desk.page.locator("#seed-used").text_content()


def test_an_alternative_is_put_in_its_place_exactly(desk: Desk) -> None:
    seen = desk.seen_requests()
    desk.write()
    desk.set(max_tokens=12, seed=3)
    desk.run()
    before = desk.tokens.all_text_contents()
    shown = desk.hover(5)
    choice = shown.get_by_role("button").filter(has_not=desk.page.locator("[aria-current]")).last
    picked = (choice.locator("code").text_content() or "").replace("·", " ").replace("↵", "\n")
    choice.click()
    expect(desk.page.locator("#alternatives")).to_be_hidden()
    expect(desk.tokens).to_have_count(6 + 12)
    assert desk.tokens.all_text_contents()[:6] == [*before[:5], picked]
    assert desk.text.startswith(PROMPT + "".join(before[:5]) + picked)
    told = httpx.post(
        f"{desk.page.url}detokenize", json={"tokens": seen[1]["prompt"]}, timeout=30
    ).json()
    assert told["prompt"] == PROMPT + "".join(before[:5]) + picked


def test_alternatives_by_keyboard(desk: Desk) -> None:
    desk.write()
    desk.set(max_tokens=8, seed=3)
    desk.run()
    desk.page.locator("#text").press("Control+End")
    desk.page.keyboard.press("Alt+ArrowDown")
    shown = desk.page.locator("#alternatives")
    expect(shown.get_by_role("button").first).to_be_focused()
    desk.page.keyboard.press("ArrowDown")
    expect(shown.get_by_role("button").nth(1)).to_be_focused()
    desk.page.keyboard.press("Escape")
    expect(shown).to_be_hidden()
    expect(desk.page.locator("#text")).to_be_focused()
    desk.page.keyboard.press("Alt+ArrowDown")
    desk.page.keyboard.press("ArrowDown")
    desk.page.keyboard.press("Enter")
    expect(desk.tokens).to_have_count(8 + 8)


def test_alternatives_by_touch(browser: Browser, server: LiveServer) -> None:
    """A finger leaves the text with every tap, which must not close the list."""
    size: ViewportSize = {"width": 390, "height": 844}
    context = browser.new_context(has_touch=True, is_mobile=True, viewport=size)
    desk = Desk.open(context.new_page(), server.url)
    desk.page.get_by_text("Sampling").tap()
    desk.set(max_tokens=8, seed=3)
    desk.write()
    desk.page.locator("#run").tap()
    desk.wait()
    box = desk.tokens.nth(4).bounding_box()
    assert box is not None
    desk.page.clock.install()
    desk.page.touchscreen.tap(box["x"] + 5, box["y"] + 5)
    shown = desk.page.locator("#alternatives")
    expect(shown).to_be_visible()
    desk.page.clock.run_for(400)  # longer than a list stays that a pointer has left
    expect(shown).to_be_visible()
    desk.page.clock.resume()
    shown.get_by_role("button").nth(1).tap()
    expect(desk.tokens).to_have_count(5 + 8)
    context.close()


def test_a_token_that_a_stop_string_cut_is_not_gone_on_from_as_ids(desk: Desk) -> None:
    """Its id stands for more than the text that is shown."""
    seen = desk.seen_requests()
    desk.write()
    desk.set(max_tokens=32, seed=3, stops="ver")
    desk.run()
    assert desk.text.endswith(" ne")
    expect(desk.page.locator("#ended")).to_have_text("stop")
    before = desk.text
    desk.set(stops="")
    desk.run()
    assert seen[1]["prompt"] == before


def test_samples_side_by_side_and_one_is_kept(desk: Desk) -> None:
    desk.write()
    desk.set(max_tokens=10, n=3, seed=4)
    desk.run()
    expect(desk.cards).to_have_count(3)
    texts = [card.locator(".sample-text").text_content() or "" for card in desk.cards.all()]
    assert len(set(texts)) == 3
    assert desk.text == PROMPT
    desk.page.get_by_role("button", name="Keep sample 2").click()
    assert desk.text == PROMPT + texts[1]
    assert desk.tokens.count() == 10
    expect(desk.cards).to_have_count(0)


def test_an_alternative_within_a_sample(desk: Desk) -> None:
    desk.write()
    desk.set(max_tokens=6, n=2, seed=4)
    desk.run()
    tokens = desk.cards.nth(1).locator(".token")
    before = tokens.all_text_contents()
    tokens.nth(2).hover()
    desk.page.locator("#alternatives").get_by_role("button").nth(3).click()
    expect(desk.tokens).to_have_count(3 + 6)
    assert desk.text.startswith(PROMPT + "".join(before[:2]))


def test_the_settings_reach_the_request(desk: Desk) -> None:
    """What is left as the server has it is not sent, so that the code stays short."""
    seen = desk.seen_requests()
    desk.write()
    desk.page.get_by_text("Penalties").click()
    desk.set(temperature=1.2, top_k=7, top_p=0.9, min_p=0.02, max_tokens=5, seed=11)
    desk.set(repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=-0.25)
    desk.set(stops="\\n\\n\nnever")
    desk.run()
    sent = {name: value for name, value in seen[0].items() if name != "prompt"}
    assert sent == {
        "temperature": 1.2,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.02,
        "max_tokens": 5,
        "seed": 11,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.25,
        "stop": ["\n\n", "never"],
        "stream": True,
        "logprobs": 8,
        "return_token_ids": True,
    }


def test_an_impossible_setting_is_named_and_not_sent(desk: Desk) -> None:
    seen = desk.seen_requests()
    desk.set(temperature=7)
    desk.page.locator("#run").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("Temperature must be from 0 to 2")
    desk.set(temperature=1, seed="x1")
    desk.page.locator("#run").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("The seed must be a whole number")
    assert seen == []


def test_an_empty_text_is_an_unconditional_sample(desk: Desk) -> None:
    desk.set(max_tokens=8, seed=1)
    desk.page.locator("#run").click()
    desk.wait()
    assert desk.text
    assert desk.tokens.count() >= 1


def test_characters_of_several_tokens_are_one(desk: Desk) -> None:
    """Offsets count characters, of which a script's strings count some as two."""
    labels = ["bytes:\\xf0\\x9f", "bytes:\\x99\\x82", "🙂", "é", " x"]
    logprobs = {
        "tokens": labels,
        "token_logprobs": [-1.0] * 5,
        "top_logprobs": [{label: -1.0} for label in labels],
        "text_offset": [0, 0, 1, 2, 3],
    }
    choice = {"index": 0, "text": "🙂🙂é x", "seed": 1, "finish_reason": "length"}
    choice |= {"logprobs": logprobs, "token_ids": [1, 2, 3, 4, 5], "prompt_token_ids": [9]}
    desk.answer({"choices": [choice]})
    desk.write("🙂 ")
    desk.run()
    assert desk.text == "🙂 🙂🙂é x"
    assert desk.tokens.all_text_contents() == ["🙂", "🙂", "é", " x"]
    seen = desk.seen_requests()
    desk.set(max_tokens=2)
    desk.run()
    assert seen[0]["prompt"] == [9, 1, 2, 3, 4, 5]


def test_the_copy_breaks_its_lines_as_the_text_does(desk: Desk) -> None:
    """The colours lie under the text only as long as both have the same lines."""
    desk.write()
    desk.set(max_tokens=200, seed=9)
    desk.run()
    for width in (1280, 700, 390):
        desk.page.set_viewport_size({"width": width, "height": 900})
        heights = desk.page.evaluate(
            "() => ['.mirror', '#text'].map((one) => document.querySelector(one).scrollHeight)"
        )
        assert heights[0] == heights[1]


def test_figures_of_the_answer(desk: Desk) -> None:
    desk.write()
    desk.set(max_tokens=40, seed=9)
    desk.run()
    expect(desk.page.locator("#rate")).to_have_text(re.compile(r"^\d"))
    expect(desk.page.locator("#first")).to_have_text(re.compile(r"^\d+ ms$"))
    expect(desk.page.locator("#slots")).to_have_text(re.compile(r"^0 / \d+$"))
    expect(desk.page.locator("#context")).to_have_text("50 / 1024")
    expect(desk.page.locator("#ended")).to_have_text("length")
