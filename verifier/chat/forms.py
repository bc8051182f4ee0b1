"""How families of models write calls of tools, and which of these forms a chat template shows.

A call is written `head name middle arguments tail`. The first one follows `trigger opening`,
others follow `between`, and `end` closes the last. Example, Hermes:

    <tool_call>\\n{"name": "find", "arguments": {"word": "sea"}}\\n</tool_call>
"""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Members:
    """Arguments that are not one JSON object but keys and values one after the other.

    A text may stand as it is between `text_open` and `text_close`; other values are JSON, apart
    from the `words`. Both are followed by `value_close`.
    """

    key_open: str
    key_close: str
    value_close: str = ""
    between: str = ""
    open: str = ""
    close: str = ""
    has_texts: bool = True  # whether texts stand as they are
    text_mark: str = ""  # around a text that stands as it is
    words: tuple[tuple[str, str], ...] = ()  # of this form, and what they are in JSON


class CallIds(enum.Enum):
    """What a template wants the ids of earlier calls to look like."""

    AS_GIVEN = enum.auto()
    NUMBERED = enum.auto()  # functions.NAME:NUMBER, counted through the conversation
    SHORT = enum.auto()  # nine letters and digits


PYTHON_WORDS = (("True", "true"), ("False", "false"), ("None", "null"))


@dataclass(frozen=True, slots=True)
class CallForm:
    """The form of one family of models."""

    name: str
    trigger: str  # what begins the calls; empty: the head does, and only at the very beginning
    head: str
    middle: str
    tail: str
    between: str | None = None  # None: one call only
    opening: str = ""
    end: str = ""
    members: Members | None = None  # None: the arguments are a JSON object
    content_open: str = ""  # what stands before a text that is no call
    has_numbers: bool = False  # a colon and the call's number follow its name
    call_ids: CallIds = CallIds.AS_GIVEN

    @property
    def marks(self) -> tuple[str, ...]:
        """All its texts, any of which may hold special tokens."""
        members = self.members
        inner = (members.key_close, members.value_close, members.text_mark) if members else ()
        outer = (self.trigger, self.opening, self.head, self.middle, self.tail, self.end)
        return (*outer, self.between or "", self.content_open, *inner)


def _deepseek(words: str) -> str:
    """The family spells its special tokens with marks of its own."""
    return "<\uff5c" + words.replace(" ", "\u2581") + "\uff5c>"


HERMES = CallForm(
    name="hermes",
    trigger="<tool_call>",
    head='\n{"name": "',
    middle='", "arguments": ',
    tail="}\n</tool_call>",
    between="\n<tool_call>",
)

FORMS = (
    HERMES,
    CallForm(
        name="qwen-xml",
        trigger="<tool_call>",
        head="\n<function=",
        middle=">\n",
        tail="</function>\n</tool_call>",
        between="\n<tool_call>",
        members=Members("<parameter=", ">\n", "\n</parameter>\n"),
    ),
    CallForm(
        name="glm",
        trigger="<tool_call>",
        head="",
        middle="\n",
        tail="</tool_call>",
        between="\n<tool_call>",
        members=Members("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    CallForm(
        name="llama-json",
        trigger="",
        head='{"name": "',
        middle='", "parameters": ',
        tail="}",
    ),
    CallForm(
        name="pythonic",
        trigger="",
        opening="[",
        head="",
        middle="(",
        tail=")",
        between=", ",
        end="]",
        members=Members("", "=", between=", ", has_texts=False, words=PYTHON_WORDS),
    ),
    CallForm(
        name="mistral-list",
        trigger="[TOOL_CALLS]",
        opening="[",
        head='{"name": "',
        middle='", "arguments": ',
        tail="}",
        between=", ",
        end="]",
        call_ids=CallIds.SHORT,
    ),
    CallForm(
        name="mistral",
        trigger="[TOOL_CALLS]",
        head="",
        middle="[ARGS]",
        tail="",
        between="[TOOL_CALLS]",
        call_ids=CallIds.SHORT,
    ),
    CallForm(
        name="kimi",
        trigger="<|tool_calls_section_begin|>",
        head="<|tool_call_begin|>functions.",
        middle="<|tool_call_argument_begin|>",
        tail="<|tool_call_end|>",
        between="",
        end="<|tool_calls_section_end|>",
        has_numbers=True,
        call_ids=CallIds.NUMBERED,
    ),
    CallForm(
        name="deepseek",
        trigger=_deepseek("tool calls begin"),
        head=_deepseek("tool call begin"),
        middle=_deepseek("tool sep"),
        tail=_deepseek("tool call end"),
        between="",
        end=_deepseek("tool calls end"),
    ),
    CallForm(
        name="deepseek-r1",
        trigger=_deepseek("tool calls begin"),
        head=f"{_deepseek('tool call begin')}function{_deepseek('tool sep')}",
        middle="\n```json\n",
        tail="\n```" + _deepseek("tool call end"),
        between="\n",
        end=_deepseek("tool calls end"),
    ),
    CallForm(
        name="phi",
        trigger="<|tool_call|>",
        opening="[",
        head='{"name": "',
        middle='", "arguments": ',
        tail="}",
        between=", ",
        end="]<|/tool_call|>",
    ),
    CallForm(
        name="harmony",
        trigger="<|channel|>commentary to=functions.",
        head="",
        middle=" <|constrain|>json<|message|>",
        tail="",
        content_open="<|channel|>final<|message|>",
    ),
    CallForm(
        name="gemma",
        trigger="<|tool_call>",
        head="call:",
        middle="",
        tail="<tool_call|>",
        between="<|tool_call>",
        members=Members("", ":", between=",", open="{", close="}", text_mark='<|"|>'),
    ),
)
BY_NAME = {form.name: form for form in FORMS}

# What a template holds that writes calls in a form; the first line that is right decides.
SIGNS = (
    ("gemma", ("<|tool_call>", "call:")),
    ("harmony", ("<|channel|>", "<|constrain|>")),
    ("harmony", ("<|channel|>", "to=functions.")),
    ("qwen-xml", ("<tool_call>", "<function=")),
    ("glm", ("<tool_call>", "<arg_key>")),
    ("deepseek-r1", (_deepseek("tool calls begin"), "```json")),
    ("deepseek", (_deepseek("tool calls begin"),)),
    ("mistral", ("[TOOL_CALLS]", "[ARGS]")),
    ("mistral-list", ("[TOOL_CALLS]",)),
    ("phi", ("<|tool_call|>",)),
    ("kimi", ("<|tool_calls_section_begin|>",)),
    ("hermes", ("<tool_call>",)),
    ("pythonic", ("func_name1(params_name1=",)),
    ("llama-json", ('"parameters": ', "<|start_header_id|>")),
)


def recognised(template: str) -> CallForm | None:
    """Return the form in which a template writes calls; None if it knows no tools or no form."""
    if "tools" not in template:
        return None
    for name, signs in SIGNS:
        if all(sign in template for sign in signs):
            return BY_NAME[name]
    return None
