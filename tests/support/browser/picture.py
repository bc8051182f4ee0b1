"""Takes a picture of the live view from a running stack; the README shows one.

`python -m tests.support.browser.picture [--url URL] [--sample NAME] [--width PIXELS] [PICTURE.png]`
"""

import argparse
import secrets
from pathlib import Path

from playwright.sync_api import Page

from tests.support.browser.chromium import WIDE, chromium, visiting
from tests.support.browser.live_view import wait_for_end

NUM_TAUGHT, NUM_TOKENS = 40, 144


def take(url: str, sample: str, path: Path, *, width: int, dark: bool) -> None:
    """Answer a sample twice, so that it drafts from memory, then on from the prompt."""
    with chromium() as browser, visiting(browser, url, width=width, dark=dark) as visit:
        page = visit.page
        namespace = f"picture-{secrets.token_hex(4)}"
        for num_tokens in (NUM_TAUGHT, NUM_TOKENS):
            page.get_by_role("button", name=sample).click()
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--sample", default="a document question")
    parser.add_argument("--width", type=int, default=WIDE)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("path", nargs="?", type=Path, default="docs/images/live-view.png")
    args = parser.parse_args()
    take(args.url, args.sample, args.path, width=args.width, dark=args.dark)


if __name__ == "__main__":
    main()
