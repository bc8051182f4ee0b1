"""The state of one request as the engine runs it, in the engine's thread."""

from collections.abc import AsyncGenerator
from collections.abc import Sequence as Sequences

from rpc.contract import Learn
from verifier.engine.answer import Answer
from verifier.engine.clock import Clock
from verifier.engine.events import Event
from verifier.request import Mode, Request
from verifier.sampling.sampler import Sampler
from verifier.text.detokenizer import Detokenizer

NO_SLOT = -1
READ_PRICE = 0.25  # of a prompt's token: a pass reads many of them, and writes one or a few


class Sequence:
    """One running request. The engine owns it; its client reads its answer."""

    def __init__(self, sequence_id: int, request: Request, detokenizer: Detokenizer) -> None:
        self.id = sequence_id
        self.request = request
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.num_known = self.num_prompt  # tokens whose rows come before the next one is chosen
        self.slot = NO_SLOT
        self.num_reused = 0  # leading prompt tokens whose rows were there already
        self.is_cancelled = False
        self.is_over = False  # by its ids or its length; its text may have ended it before
        self.clock = Clock()
        self.answer = Answer(request, detokenizer, self.clock)
        self.sampler = Sampler(
            request.sampling,
            request.prompt_token_ids,
            ending_ids=request.stopping.ending_ids,
            min_tokens=request.stopping.min_tokens,
            matcher=None if request.grammar is None else request.grammar.start(),
        )

    @property
    def namespace(self) -> str:
        """Whose memory it uses."""
        return self.request.speculation.namespace

    @property
    def account(self) -> str:
        """Who pays for it."""
        return self.request.account

    @property
    def service(self) -> float:
        """What it has received: its tokens, those of the prompt at their lower price."""
        num_read = self.num_prompt - self.num_reused if self.num_output else 0
        return self.num_output + READ_PRICE * num_read

    @property
    def row_namespace(self) -> str | None:
        """Who may share its rows; None: nobody, since the request wants nothing remembered."""
        speculation = self.request.speculation
        shares = speculation.mode is not Mode.OFF and speculation.learn is Learn.ALL
        return speculation.namespace if shares else None

    @property
    def uses_drafts(self) -> bool:
        """Whether drafts may be verified for it."""
        return self.request.speculation.mode is not Mode.OFF

    @property
    def has_free_drafts(self) -> bool:
        """Whether the budget decides how much of its drafts is verified."""
        return self.request.speculation.mode is Mode.AUTO

    @property
    def is_scored(self) -> bool:
        """Whether the log probabilities of its prompt are wanted."""
        return self.request.num_prompt_logprobs is not None

    @property
    def num_output(self) -> int:
        """Tokens chosen."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_unread(self) -> int:
        """Tokens that the client has not taken yet."""
        return self.num_output - self.answer.num_read

    @property
    def is_decoding(self) -> bool:
        """Its prompt is read: its first token is out."""
        return len(self.token_ids) > self.num_known

    @property
    def num_left(self) -> int:
        """Tokens it may still emit."""
        return self.request.stopping.max_tokens - self.num_output

    def take(self, token_ids: Sequences[int]) -> int:
        """Add what a step chose, up to an end by ids or length; return how many tokens that is."""
        end = self.request.stopping.end_in(token_ids, self.num_output)
        self.is_over = end is not None
        count = len(token_ids) if end is None else end
        self.token_ids += token_ids[:count]
        return count

    def cut(self) -> None:
        """Forget what was chosen after the end that the text has shown."""
        del self.token_ids[self.num_prompt + self.answer.num_tokens :]

    def park(self) -> None:
        """Give the slot up; its rows are to be computed again from all its tokens."""
        self.slot = NO_SLOT
        self.num_known = len(self.token_ids)

    def stream(self) -> AsyncGenerator[Event, None]:
        """Yield what its client is told; to be read on the event loop."""
        return self.answer.stream()
