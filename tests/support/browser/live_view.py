"""What tests and pictures of the live view have in common."""

from playwright.sync_api import Page, expect

DONE_MS = 120_000


def wait_for_end(page: Page) -> None:
    """Wait until the answer is there."""
    expect(page.get_by_role("button", name="Generate")).to_be_enabled(timeout=DONE_MS)
