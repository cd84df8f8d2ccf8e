"""A page in Debian's chromium, driven by Playwright, with what it said and asked for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
"""axe-core 4.14.1, MPL 2.0, from the npm registry."""
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (Debian's package of that name)"
)


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """A page opened from disk."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, theme: str = "light",
                 fragment: str = ""):  # fmt: skip
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.resolve().as_uri()
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def faults(self) -> list[str]:
        """What axe-core finds serious or critical: rule and the elements."""
        # Not through a script element: the page's own policy would have a say in it.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {[node['target'] for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def close(self) -> None:
        """Nothing was complained of, and nothing asked for but the file."""
        assert self.said == []
        assert [url.partition("#")[0] for url in self.requests] == [self.url]
        self.context.close()
