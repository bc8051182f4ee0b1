"""Debian's Chromium, driven without a window; remembers everything that a page complained about."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

WIDE, NARROW = 1280, 400
HEIGHT = 900


def chromium_binary() -> str:
    """Return Debian's chromium, or skip, or fail where the tests must not be skipped."""
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
            pytest.fail("chromium is not installed")
        pytest.skip("needs Debian's chromium")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser."""
    with sync_playwright() as playwright:
        # Containers often run as root, where Chromium's sandbox does not start.
        browser = playwright.chromium.launch(
            executable_path=chromium_binary(), args=["--no-sandbox"]
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page and its complaints: console messages, exceptions, requests to anywhere else."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visiting(
    browser: Browser, url: str, *, width: int = WIDE, dark: bool = False
) -> Iterator[Visit]:
    """Open a page; it has no complaints until it is left, but for those taken off the list."""
    page = browser.new_page(
        viewport={"width": width, "height": HEIGHT}, color_scheme="dark" if dark else "light"
    )
    visit = Visit(page)
    complain = visit.complaints.append
    page.on("console", lambda message: complain(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complain(f"exception: {error}"))
    page.on("request", lambda r: None if r.url.startswith(url) else complain(f"asks {r.url}"))
    try:
        page.goto(url)
        yield visit
        assert visit.complaints == []
    finally:
        page.close()
