"""What a person does with the page, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

PROMPT = "It was a dark night, and the old man"
WAIT_MS = 30_000


@dataclass(frozen=True, slots=True)
class Desk:
    """The page in one tab."""

    page: Page

    @classmethod
    def open(cls, page: Page, url: str) -> Desk:
        """Load the page, and wait until it knows its model."""
        page.goto(f"{url}/")
        expect(page.locator("#served")).to_have_text("bundled", timeout=WAIT_MS)
        return cls(page)

    @property
    def text(self) -> str:
        """What stands in the editor."""
        found: str = self.page.locator("#text").input_value()
        return found

    @property
    def tokens(self) -> Locator:
        """The coloured tokens of the editor."""
        return self.page.locator("#head .token")

    @property
    def cards(self) -> Locator:
        """The samples side by side."""
        return self.page.locator("#samples article")

    def set(self, **settings: object) -> None:
        """Fill in settings by the names of their fields."""
        for name, value in settings.items():
            self.page.locator(f"#{name}").fill(str(value))

    def write(self, text: str = PROMPT) -> None:
        """Fill in the text."""
        self.page.locator("#text").fill(text)

    def run(self) -> None:
        """Press Ctrl+Enter in the text, and wait for the end."""
        self.page.locator("#text").press("Control+Enter")
        self.wait()

    def wait(self) -> None:
        """Wait until nothing is generated any more."""
        expect(self.page.locator("#run")).to_be_enabled(timeout=WAIT_MS)
        expect(self.page.locator("body.running")).to_have_count(0)

    def hover(self, place: int) -> Locator:
        """Point at a token of the editor; its list."""
        # One that is broken over two lines has two boxes, and nothing between them.
        x, y = self.tokens.nth(place).evaluate(
            "one => { const box = [...one.getClientRects()].at(-1);"
            " return [box.x + box.width / 2, box.y + box.height / 2]; }"
        )
        self.page.mouse.move(x, y)
        shown = self.page.locator("#alternatives")
        expect(shown).to_be_visible()
        return shown

    def seen_requests(self) -> list[dict[str, Any]]:
        """The bodies of completion requests from now on; they go on to the server."""
        seen: list[dict[str, Any]] = []

        def note(route: Route) -> None:
            seen.append(json.loads(route.request.post_data or ""))
            route.continue_()

        self.page.route("**/v1/completions", note)
        return seen

    def answer(self, *events: object) -> None:
        """Let the next completion request be answered with these events, and the end mark if the
        last one is no error."""
        is_whole = "error" not in json.dumps(events[-1])
        lines = [*map(json.dumps, events), *(["[DONE]"] if is_whole else [])]
        body = "".join(f"data: {line}\n\n" for line in lines)
        self.page.route(
            "**/v1/completions",
            lambda route: route.fulfill(status=200, body=body, content_type="text/event-stream"),
            times=1,
        )

    def refuse(self, status: int, message: str, **headers: str) -> None:
        """Let the next completion request be answered with an error."""
        body = {"error": {"message": message, "type": "t", "param": None, "code": None}}
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.page.route(
            "**/v1/completions",
            lambda route: route.fulfill(status=status, json=body, headers=told),
            times=1,
        )
