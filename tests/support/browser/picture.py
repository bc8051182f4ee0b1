"""Takes the picture of the live view that the README shows, from a running stack.

`python -m tests.support.browser.picture [http://127.0.0.1:8000/] [PICTURE.png]`
"""

import secrets
import sys
from pathlib import Path

from playwright.sync_api import Page

from tests.support.browser.chromium import chromium, visiting
from tests.support.browser.live_view import wait_for_end

NUM_TAUGHT, NUM_TOKENS = 40, 144


def take(url: str, path: Path) -> None:
    """Answer the first sample twice, so that it drafts from memory, then on from the prompt."""
    with chromium() as browser, visiting(browser, url) as visit:
        page = visit.page
        namespace = f"picture-{secrets.token_hex(4)}"
        for num_tokens in (NUM_TAUGHT, NUM_TOKENS):
            page.locator("#max-tokens").fill(str(num_tokens))
            page.locator("#namespace").fill(namespace)
            page.get_by_role("button", name="Generate").click()
            wait_for_end(page)
        page.get_by_role("button", name="Same without drafts").click()
        wait_for_end(page)
        show_a_telling_step(page)
        page.locator("#namespace").fill("")
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.screenshot(path=path, full_page=True)


def show_a_telling_step(page: Page) -> None:
    """Turn to the step whose tree has the most branches, of those that fit and accept three."""
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    scores = [score(page)]
    for _ in range(int(slider.get_attribute("max") or 0)):
        page.keyboard.press("ArrowRight")
        scores.append(score(page))
    page.keyboard.press("Home")
    for _ in range(scores.index(max(scores))):
        page.keyboard.press("ArrowRight")


def score(page: Page) -> int:
    """The lines of the tree shown; 0 where it is too wide or little was accepted."""
    fits = page.locator("#tree").evaluate("tree => tree.scrollWidth <= tree.clientWidth")
    if not fits or page.locator("#tree .accepted.node").count() < 3:
        return 0
    lines = page.locator("#tree rect").evaluate_all(
        "boxes => boxes.map(box => box.y.baseVal.value)"
    )
    return len(set(lines))


if __name__ == "__main__":
    defaults = ["http://127.0.0.1:8000/", "docs/images/live-view.png"]
    url, path = [*sys.argv[1:], *defaults[len(sys.argv) - 1 :]]
    take(url, Path(path))
