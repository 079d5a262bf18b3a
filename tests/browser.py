"""A real Chromium, headless, that looks at what we serve and writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, Request, Response, sync_playwright

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The one that is installed. For a fixture of one module: starting it takes a second."""
    path = os.environ.get("STREAMLEARN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(
            "no Chromium or Chrome: `apt-get install chromium` (ops/test does it where it may), or say "
            "where one is by STREAMLEARN_CHROMIUM"
        )
    with sync_playwright() as playwright:
        # The pages are our own; the sandbox wants rights that a container has not.
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        yield browser
        browser.close()


class Visit:
    """A page that was opened, and everything that it complained about or asked for."""

    def __init__(
        self, browser: Browser, url: str, width: int, height: int, dark: bool, touch: bool = False
    ) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
        )
        self.page: Page = context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._asked)
        self.answer: Response | None = self.page.goto(url)

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    @property
    def text(self) -> str:
        """What a person reads."""
        return self.page.locator("body").inner_text()

    @property
    def width(self) -> int:
        """What the page takes up: more than the window has, and it scrolls to the side."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def done(self) -> None:
        """It complained about nothing and asked for nothing but itself."""
        assert self.faults == []
        assert [url for url in self.requests if not url.startswith("data:")] == [self.page.url]
        self.page.context.close()
