"""What every system is asked in a round, as token ids: all of them get the very same."""

from dataclasses import dataclass

from bench.serving.workloads import OPENINGS, chats, copying, mixed, noise
from lookahead import Client

Prompt = list[int]
READ_LENS = (200, 1500)
NUM_STREAMS = 8
STREAMS = f"{NUM_STREAMS} streams"
DECODED = ("retrieval", "JSON", "code edit", "chat", "free text")


@dataclass(frozen=True, slots=True)
class Task:
    """Batches of prompts, answered one batch after the other."""

    name: str
    batches: list[list[Prompt]]
    max_tokens: int

    @property
    def is_reading(self) -> bool:
        """Whether the prompts are what takes time: read once, no rows of them cached before."""
        return self.max_tokens == 1


def read_name(length: int) -> str:
    """What reading a prompt of so many tokens is called."""
    return f"read {length}"


TASKS = (*DECODED, STREAMS, *map(read_name, READ_LENS))


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of all rounds."""

    decoded: dict[str, list[Prompt]]  # by workload
    mixed: list[Prompt]
    vocabulary: int

    def tasks(self, number: int, tokens: int) -> list[Task]:
        """The tasks of a round; what is to be read is new in each."""
        decoding = [
            Task(name, [[prompt] for prompt in prompts], tokens)
            for name, prompts in self.decoded.items()
        ]
        reading = [
            Task(read_name(length), [[noise(length, self.vocabulary, length + number)]], 1)
            for length in READ_LENS
        ]
        return [*decoding, Task(STREAMS, [self.mixed], tokens), *reading]


def tokenized(client: Client) -> Prompts:
    """The workloads in the ids of the model that a verifier serves."""
    info = client.model()
    texts = copying() | {"free text": OPENINGS[:2]}
    decoded = {name: [client.tokenize(text) for text in texts[name]] for name in texts}
    if info.has_chat_template:
        decoded["chat"] = [client.tokenize_chat(messages) for messages in chats()]
    decoded = {name: decoded[name] for name in DECODED if name in decoded}
    return Prompts(
        decoded, [client.tokenize(text) for text in mixed(NUM_STREAMS)], info.vocabulary_size
    )
