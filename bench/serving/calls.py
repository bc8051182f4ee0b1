"""Calls of a tool, which repeat its schema: what drafts save of them."""

from bench.serving.figures import Figure, median_ratio
from lookahead import Client

TOOL = {
    "type": "function",
    "function": {
        "name": "book_table",
        "description": "Books a table in a restaurant.",
        "parameters": {
            "type": "object",
            "properties": {
                "restaurant_name": {"type": "string", "maxLength": 24},
                "number_of_guests": {"type": "integer", "minimum": 1, "maximum": 12},
                "date_of_the_visit": {"type": "string", "pattern": "^2026-[01][0-9]-[0-3][0-9]$"},
                "wants_a_window_seat": {"type": "boolean"},
                "contact_phone_number": {"type": "string", "pattern": "^[0-9]{8}$"},
            },
            "required": [
                "restaurant_name",
                "number_of_guests",
                "date_of_the_visit",
                "wants_a_window_seat",
                "contact_phone_number",
            ],
            "additionalProperties": False,
        },
    },
}
WISHES = (
    "A table for two at the Harbour Inn on the third of May, please.",
    "Four of us want to eat at Luigi's on Friday, at the window.",
    "Book the Golden Lion for six, on the first of June.",
    "Could you get me a table for one at Nora's?",
)


def repeated_calls(client: Client, *, rounds: int) -> list[Figure]:
    """Plain and drafted in turn, a tool that must be called; each wish has been heard never before.

    The first call of a memory only teaches it.
    """
    plain, drafted = [], []
    for number in range(rounds):
        memory = f"calls-{number}"
        _call_ms(client, WISHES[0], "auto", memory)
        for wish in WISHES[1:]:
            plain.append(_call_ms(client, wish, "off", memory))
            drafted.append(_call_ms(client, wish, "auto", memory))
    ratio = median_ratio(plain, drafted)
    return [Figure("calls", "calls of one tool: drafted / plain", ratio, at_least=2.0)]


def _call_ms(client: Client, wish: str, mode: str, memory: str) -> float:
    """Milliseconds a token of a call."""
    result = client.generate(
        messages=[{"role": "user", "content": wish}],
        tools=[TOOL],
        tool_choice="required",
        single_call=True,
        max_tokens=160,
        speculation=mode,  # type: ignore[arg-type]
        namespace=memory,
        learn="none" if mode == "off" else "all",
    ).wait()
    return result.timings.decode_ms / (len(result.token_ids) - 1)
