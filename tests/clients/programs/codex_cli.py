"""Codex, OpenAI's agent for the terminal, which speaks /v1/responses only."""

import json
import os
import subprocess
from pathlib import Path

from checks import BASE_URL, KEY, MODEL, check, run

# A small model reads a short page of instructions instead of Codex's own long one.
SETTINGS = """
model = {model}
model_provider = "lookahead"
model_instructions_file = "instructions.md"
model_context_window = 8192
web_search = "disabled"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.lookahead]
name = "Lookahead"
base_url = {url}
env_key = "LOOKAHEAD_API_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


def codex(prompt: str) -> list[dict]:
    """Have Codex answer; return the events that it prints."""
    home = Path.home() / ".codex"
    home.mkdir(exist_ok=True)
    (home / "instructions.md").write_text("You are a helpful assistant. Be brief.")
    settings = SETTINGS.format(model=json.dumps(MODEL), url=json.dumps(BASE_URL))
    (home / "config.toml").write_text(settings)
    done = subprocess.run(
        ["codex", "exec", "--skip-git-repo-check", "--json", prompt],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "LOOKAHEAD_API_KEY": KEY},
        text=True,
        timeout=240,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, events
    return events


@check("codex exec")
def answers() -> None:
    events = codex("What is 2 + 2?")
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert any(item["type"] == "agent_message" and item["text"] for item in items), events
    (end,) = [event for event in events if event["type"] == "turn.completed"]
    assert end["usage"]["output_tokens"] > 0


run()
