"""The live view as a reader meets it: in Chromium, on a real gateway."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from bench.topologies.server import free_port
from lookahead import Client
from lookahead.stack.stack import NO_REDIS, StackConfig, running
from lookahead.terminal.samples import load_chats, load_samples
from protos import verifier_pb2 as pb
from tests.support.browser.chromium import NARROW, WIDE, chromium, visiting
from tests.support.browser.live_view import DONE_MS, wait_for_end
from tests.support.models.saved_model import save_small_model
from tests.support.servers.fake_verifier import ANSWER, FakeVerifier, serving
from tests.support.servers.parts_verifier import PartsVerifier, call, said
from tests.support.servers.running_gateway import Host, gateway, host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("compiled_kernels"),
]

PROMPT = "the quick brown fox jumps over the lazy dog, then it sleeps. " * 3
LEARN_S = 60.0
HOSTILE = "<img src=x onerror=\"console.error('owned')\"><script>alert(1)</script>&amp;<b>bold"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def loop() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.fixture(scope="module")
def stack() -> Iterator[StackConfig]:
    """Drafter, verifier with a small model, gateway: real processes."""
    with TemporaryDirectory(prefix="la-") as name:
        directory = Path(name)
        save_small_model(directory / "model")
        config = StackConfig.apart(
            str(directory / "model"),
            directory,
            environ={**os.environ, "LOOKAHEAD_VERIFIER_THREADS": "1"},
            redis=NO_REDIS,
            gateway_address=f"127.0.0.1:{free_port()}",
        )
        with running(config):
            teach(config)
            yield config


def teach(config: StackConfig) -> None:
    """Give the memory the answer to PROMPT, so that it is drafted from then on."""
    deadline = time.monotonic() + LEARN_S
    with Client(config.verifier_address) as client:
        num_accepted = 0
        while num_accepted == 0:
            assert time.monotonic() < deadline, "the memory learns"
            result = client.generate(PROMPT, max_tokens=60, speculation="tree").wait()
            num_accepted = result.speculation.num_accepted_tokens


@pytest.fixture(scope="module")
def url(stack: StackConfig) -> str:
    return f"http://{stack.gateway_address}/"


@contextmanager
def faked(loop: Host, servicer: FakeVerifier, **settings: object) -> Iterator[str]:
    """A gateway in front of a verifier that says what the test wants."""
    with serving(servicer) as address, loop.holding(gateway(address, **settings)) as front:
        yield f"http://{front}/"


def fill(page: Page, prompt: str, *, kind: str = "text", **settings: str) -> None:
    expect(page.locator("#samples button").first).to_be_visible()
    if page.locator("#kind").input_value() != kind:
        page.locator("#kind").select_option(kind)
    for label, value in settings.items():
        field = page.locator(f"#{label.replace('_', '-')}")
        if field.evaluate("element => element.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
    # The samples of that kind are there, too, so that none comes between.
    expect(page.locator("#prompt-label")).to_have_text("Prompt" if kind == "text" else "Message")
    page.locator("#prompt").fill(prompt)


def generate(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    wait_for_end(page)


def generate_drafted(page: Page) -> None:
    """Generate until some of it was drafted: on a busy machine drafting may be off for a while."""
    deadline = time.monotonic() + LEARN_S
    generate(page)
    while page.locator("#answer .piece.namespace").count() == 0:
        assert time.monotonic() < deadline, "drafting comes back"
        generate(page)


def generated(page: Page, answer: str = "answer") -> str:
    """The text of an answer without the end of the prompt before it."""
    return "".join(page.locator(f"#{answer} .piece").all_text_contents())


def test_the_answer_is_grpcs_its_drafts_coloured_by_source(
    browser: Browser, stack: StackConfig, url: str
) -> None:
    with Client(stack.verifier_address) as client:
        expected = client.generate(PROMPT, max_tokens=60, learn="none").wait()
    with visiting(browser, url) as visit:
        page = visit.page
        fill(page, PROMPT, mode="tree", max_tokens="60")
        generate_drafted(page)
        assert generated(page) == expected.text
        num_tokens = expected.usage.num_output_tokens
        expect(page.locator("#state")).to_contain_text(f"{num_tokens} tokens")
        drafted = page.locator("#answer .piece.namespace")
        assert drafted.count() > 0
        plain = page.locator("#answer .piece.own").first
        colour = "element => getComputedStyle(element).backgroundColor"
        assert drafted.first.evaluate(colour) != plain.evaluate(colour)
        counts = [int(text) for text in page.locator("#legend b").all_text_contents()]
        assert sum(counts) == num_tokens
        per_step = float(page.locator("#per-step").inner_text())
        assert per_step > 1
        assert float(page.locator("#speed").inner_text()) > 0
        accepted, drafts = re.findall(r"\d+", page.locator("#accepted").inner_text())
        assert 0 < int(accepted) <= int(drafts)
        assert int(accepted) == sum(counts[:-1])


def test_each_steps_tree_can_be_looked_at_again(browser: Browser, url: str) -> None:
    with visiting(browser, url) as visit:
        page = visit.page
        fill(page, PROMPT, mode="tree", max_tokens="60")
        generate_drafted(page)
        slider = page.get_by_label("Step", exact=True)
        slider.focus()
        page.keyboard.press("Home")
        expect(page.locator("#step-note")).to_contain_text("step 0")
        steps = int(slider.get_attribute("max") or 0)
        paths = []
        for step in range(1, steps + 1):
            page.keyboard.press("ArrowRight")
            expect(page.locator("#step-note")).to_contain_text(f"step {step} of {steps}")
            accepted = page.locator("#tree .node.accepted text").all_text_contents()
            shown = "".join(page.locator("#answer .piece.shown").all_text_contents())
            said = re.search(r"(\d+) of (\d+) drafted", page.locator("#step-note").inner_text())
            if said is not None:
                nodes = page.locator("#tree .node.accepted, #tree .node.refused").count()
                assert (len(accepted), nodes) == (int(said[1]), int(said[2]))
            path = "".join(accepted).replace("·", " ").replace("↵", "\n").replace("⇥", "\t")
            # Neither parts of characters nor the end have a text of their own.
            whole = re.split("[\N{REPLACEMENT CHARACTER}…]|</s>", path)[0]
            assert whole in shown
            paths.append(path)
        assert any(paths)
        expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")


def test_the_same_without_drafts_is_the_same(browser: Browser, url: str) -> None:
    with visiting(browser, url) as visit:
        page = visit.page
        fill(page, PROMPT, mode="tree", max_tokens="40", temperature="0.9")
        generate(page)
        page.get_by_role("button", name="Same without drafts").click()
        expect(page.locator("#verdict")).to_contain_text("identical", timeout=DONE_MS)
        assert generated(page, "plain") == generated(page)
        speeds = page.locator("#bars b").all_text_contents()
        assert [float(speed.split()[0]) > 0 for speed in speeds] == [True, True]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_of_the_window(
    browser: Browser, url: str, width: int, dark: bool
) -> None:
    with visiting(browser, url, width=width, dark=dark) as visit:
        fill(visit.page, "x" * 300 + PROMPT, mode="tree", max_tokens="40")
        generate(visit.page)
        visit.page.get_by_role("button", name="Same without drafts").click()
        wait_for_end(visit.page)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_background(browser: Browser, url: str, dark: bool) -> None:
    with visiting(browser, url, dark=dark) as visit:
        ratios = visit.page.evaluate(CONTRASTS)
    assert {name: value for name, value in ratios.items() if value < 4.5} == {}
    assert len(ratios) > 10


def test_it_can_be_used_by_keyboard_alone(browser: Browser, loop: Host) -> None:
    with faked(loop, FakeVerifier()) as front, visiting(browser, front) as visit:
        page = visit.page
        expect(page.locator("#prompt")).not_to_have_value("")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "prompt"
        page.keyboard.press("Control+A")
        page.keyboard.type("forever")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#state")).to_have_text("running…")
        page.keyboard.press("Escape")
        expect(page.locator("#state")).to_have_text("stopped")
        seen = set()
        for _ in range(25):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id"))
    assert {"run", "max-tokens", "temperature", "seed", "mode", "answer", "tree"} <= seen


def test_stop_ends_the_generation_on_the_server(browser: Browser, loop: Host) -> None:
    servicer = FakeVerifier(pause_s=0.02)
    with faked(loop, servicer) as front, visiting(browser, front) as visit:
        fill(visit.page, "forever")
        visit.page.get_by_role("button", name="Generate").click()
        expect(visit.page.locator("#answer")).to_contain_text("aaa")
        visit.page.get_by_role("button", name="Stop").click()
        assert servicer.was_cancelled.wait(20)
        expect(visit.page.locator("#state")).to_have_text("stopped")
        expect(visit.page.locator("#error")).to_be_hidden()


def test_the_models_words_are_never_taken_for_the_pages_own(
    browser: Browser, loop: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.servers.fake_verifier.ANSWER", HOSTILE)
    with faked(loop, FakeVerifier()) as front, visiting(browser, front) as visit:
        visit.page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
        fill(visit.page, HOSTILE)
        generate(visit.page)
        assert generated(visit.page) == f"{HOSTILE}."
        assert visit.page.locator("main img, main script, main b:not(#legend b)").count() == 0


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("overload", "the queue is full (rate_limit_error)"),
        ("bad sampling.temperature", "temperature: is bad (invalid_request_error)"),
        ("cut", "without a final message"),
    ],
)
def test_what_the_server_objects_to_is_shown(
    browser: Browser, loop: Host, prompt: str, complaint: str
) -> None:
    with faked(loop, FakeVerifier()) as front, visiting(browser, front) as visit:
        fill(visit.page, prompt)
        generate(visit.page)
        expect(visit.page.get_by_role("alert")).to_contain_text(complaint)
        expect(visit.page.locator("#state")).to_have_text("failed")
        fill(visit.page, "fine")
        generate(visit.page)
        expect(visit.page.get_by_role("alert")).to_be_hidden()
        assert generated(visit.page) == f"{ANSWER}."
        # Chromium itself reports each refusal on the console; there is nothing else.
        assert all("the server responded with a status of" in c for c in visit.complaints)
        visit.complaints.clear()


def test_a_gateway_that_is_gone_is_named(browser: Browser, loop: Host) -> None:
    with faked(loop, FakeVerifier()) as front, visiting(browser, front) as visit:
        visit.page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
        generate(visit.page)
        address = front.removeprefix("http://").rstrip("/")
        expect(visit.page.get_by_role("alert")).to_contain_text(f"gateway at {address}")
        assert all("ERR_CONNECTION_REFUSED" in complaint for complaint in visit.complaints)
        visit.complaints.clear()


@pytest.mark.parametrize("has_chat_template", [True, False])
def test_the_samples_are_the_demos_prompts(
    browser: Browser, loop: Host, has_chat_template: bool
) -> None:
    samples = load_chats() if has_chat_template else load_samples()
    verifier = FakeVerifier(has_chat_template=has_chat_template)
    with faked(loop, verifier) as front, visiting(browser, front) as visit:
        buttons = visit.page.locator("#samples button")
        expect(buttons).to_have_count(len(samples))
        for button, sample in zip(buttons.all(), samples, strict=True):
            button.click()
            expect(visit.page.locator("#prompt")).to_have_value(sample.asked)


def test_a_conversation_goes_on_until_a_new_one_begins(browser: Browser, loop: Host) -> None:
    servicer = FakeVerifier()
    with faked(loop, servicer) as front, visiting(browser, front) as visit:
        for text in ("first", "second"):
            fill(visit.page, text, kind="chat")
            generate(visit.page)
            expect(visit.page.locator("#prompt")).to_have_value("")
        visit.page.get_by_role("button", name="New chat").click()
        fill(visit.page, "third", kind="chat")
        generate(visit.page)
    seen = [[m.content for m in request.chat.messages] for request in servicer.requests]
    assert seen == [["first"], ["first", f"{ANSWER}.", "second"], ["third"]]


def test_a_call_of_a_tool_is_shown_and_answered(browser: Browser, loop: Host) -> None:
    servicer = PartsVerifier(
        (said("I look it up."), call('{"city": ', name="weather"), call('"Rome"}'))
    )
    tools = [{"type": "function", "function": {"name": "weather", "description": "Says it"}}]
    with faked(loop, servicer) as front, visiting(browser, front) as visit:
        page = visit.page
        fill(page, "Rain?", kind="chat")
        page.locator("#more summary").click()
        fill(page, "Rain?", kind="chat", tools=json.dumps(tools), tool_choice="required")
        generate(page)
        expect(page.locator("#answer .call")).to_have_text('calls weather(city="Rome")')
        expect(page.locator("#prompt")).to_have_attribute("placeholder", "What weather returns")
        page.locator("#prompt").fill("sunny")
        generate(page)
        fill(page, "Rain?", kind="chat", tools="[")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("alert")).to_contain_text("Tools: not JSON")
    [asked, answered] = servicer.requests
    assert [tool.name for tool in asked.chat.tools] == ["weather"]
    assert asked.chat.tool_choice == pb.ChatMessages.TOOL_CHOICE_REQUIRED
    [_, called, result] = answered.chat.messages
    assert (called.content, called.tool_calls[0].name) == ("I look it up.", "weather")
    assert json.loads(called.tool_calls[0].arguments) == {"city": "Rome"}
    assert (result.role, result.content) == ("tool", "sunny")
    assert result.tool_call_id == called.tool_calls[0].id


def test_settings_reach_the_verifier(browser: Browser, loop: Host) -> None:
    servicer = FakeVerifier()
    with faked(loop, servicer) as front, visiting(browser, front) as visit:
        settings = {"max_tokens": "9", "temperature": "0.5", "seed": "7", "namespace": "notes"}
        fill(visit.page, "hello", mode="chain", kind="chat", **settings)
        generate(visit.page)
    [request] = servicer.requests
    assert request.chat.messages[0].content == "hello"
    assert (request.stopping.max_tokens, request.sampling.seed) == (9, 7)
    assert request.sampling.temperature == 0.5
    assert request.speculation.namespace == "notes"
    assert request.speculation.mode == request.speculation.MODE_CHAIN


def test_a_gateway_with_keys_asks_the_browser_for_one(browser: Browser, loop: Host) -> None:
    keys = {"keys": {"secret": "tenant"}, "draft_trees": True}
    with faked(loop, FakeVerifier(), **keys) as front:
        refused = httpx.get(front)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].lower().startswith("basic")
        context = browser.new_context(http_credentials={"username": "", "password": "secret"})
        page = context.new_page()
        page.goto(front)
        fill(page, "hello")
        generate(page)
        assert generated(page) == f"{ANSWER}."
        context.close()


def test_keys_that_may_not_see_drafts_see_the_words(browser: Browser, loop: Host) -> None:
    with faked(loop, FakeVerifier(), draft_trees=False) as front, visiting(browser, front) as visit:
        fill(visit.page, "hello")
        generate(visit.page)
        assert generated(visit.page) == f"{ANSWER}."
        expect(visit.page.locator("#step-note")).to_contain_text("does not show drafts")
        assert all("the server responded with a status of" in c for c in visit.complaints)
        visit.complaints.clear()


# Contrast of each text with what lies behind it, by the formula of WCAG 2.1, section 1.4.3.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  const texts = "h1, h2, p, label, dt, dd, li span, button:enabled, textarea, kbd";
  for (const e of document.querySelectorAll(texts)) {
    if (!e.getClientRects().length || !e.textContent.trim()) continue;
    const [a, b] = [channels(getComputedStyle(e).color), behind(e)].map(luminance);
    found[`${e.tagName} ${e.id} ${e.textContent.trim().slice(0, 20)}`] =
      (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""
