"""The verifier's end of the Draft stream. Drafts are advice: whatever goes wrong, no tree comes.

One request is in flight at a time and batches all sequences. A reply that came too late is kept
and re-rooted under the tokens emitted meanwhile. When the stream breaks, sequences are opened
again on the next drafter from their prompt and output.

The stream lives on the event loop; sequences belong to the engine's thread. Between them stand an
inbox of what came, in order, and the stream's own queue of what is to be sent.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from protos import drafter_pb2 as pb
from rpc.tls import TlsFiles
from verifier.request import Speculation
from verifier.speculation.draft_source import Successors
from verifier.speculation.drafter_connection import DraftCall, DrafterConnection
from verifier.speculation.remote_sequence import RemoteSequence
from verifier.speculation.tree import EMPTY_TREE, DraftTree, InvalidTree

logger = logging.getLogger(__name__)

HANG_S = 2.0  # a reply later than this means the drafter hangs: try another one
# Added to the number of a sequence that is opened once more, for what it is to be learned by.
LEARNED_BY = 1 << 62


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that is up, as the engine's thread uses it."""

    call: DraftCall
    loop: asyncio.AbstractEventLoop
    requests: "asyncio.Queue[pb.DraftRequest]" = field(default_factory=asyncio.Queue)

    def send(self, message: pb.DraftRequest) -> None:
        self.loop.call_soon_threadsafe(self.requests.put_nowait, message)

    def cancel(self) -> None:
        self.loop.call_soon_threadsafe(self.call.cancel)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply, and when it came."""

    response: pb.DraftResponse
    at: float


class DraftClient:
    """Drafts for all live sequences of one engine, from drafters elsewhere."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        vocabulary: str,
        vocabulary_size: int,
        tls: TlsFiles | None = None,
    ) -> None:
        self.num_deadline_misses = 0
        self.num_invalid = 0
        self.num_replies = 0
        self.last_hop_s = 0.0  # from the newest answered request to its answer
        self.is_connected = False  # a stream to a drafter is up, as far as is known
        self._connection = DrafterConnection(addresses, tls)
        self._vocabulary = vocabulary
        self._vocabulary_size = vocabulary_size
        self._tracked: dict[int, RemoteSequence] = {}
        self._closing: list[pb.Close] = []
        self._last_words: list[pb.Observe] = []  # of sequences that are closing
        self._opening: list[pb.Open] = []  # of those that are opened to be closed
        self._step = 0
        self._sent_at = 0.0
        self._is_trusted = True  # the last reply came within its deadline
        self._is_answered = True
        self._deadline_s = 0.0
        self._stream: _Stream | None = None
        # A new stream, its replies, and None where it broke.
        self._inbox: deque[_Stream | _Reply | None] = deque()
        self._has_come = threading.Event()
        self._wake: Callable[[], object] = lambda: None
        self._task: asyncio.Task[None] | None = None

    # --- on the event loop

    def start(self, wake: Callable[[], object] = lambda: None) -> None:
        """Connect in the background, and again whenever the stream breaks."""
        self._wake = wake
        self._task = asyncio.create_task(self._connection.keep(self._talk), name="draft-client")

    async def stop(self) -> None:
        """Close the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _talk(self, call: DraftCall) -> None:
        """Hand over a new stream and what comes on it, until it breaks."""
        stream = _Stream(call, asyncio.get_running_loop())
        self.is_connected = True
        self._tell(stream)
        # Not by a request iterator: gRPC leaves the task that reads it behind.
        sender = asyncio.create_task(_send(call, stream.requests), name="draft-sender")
        try:
            async for response in call:
                self._tell(_Reply(response, time.perf_counter()))
        finally:
            sender.cancel()
            await asyncio.wait([sender])
            self.is_connected = False
            self._tell(None)

    def _tell(self, news: _Stream | _Reply | None) -> None:
        self._inbox.append(news)
        self._has_come.set()
        self._wake()

    # --- in the engine's thread

    @property
    def has_news(self) -> bool:
        """Whether the drafter is to be told of sequences that have ended."""
        return bool(self._closing)

    def open(
        self,
        sequence_id: int,
        token_ids: list[int],
        num_prompt: int,
        speculation: Speculation,
        traceparent: str = "",
    ) -> None:
        """Follow a sequence; `token_ids` is read again whenever something is sent."""
        self._tracked[sequence_id] = RemoteSequence(token_ids, num_prompt, speculation, traceparent)

    def close(self, sequence_id: int, *, learn: bool) -> None:
        """Stop following a sequence."""
        tracked = self._tracked.pop(sequence_id, None)
        if tracked is None or not tracked.is_open:
            return
        if learn and tracked.has_taken_back:
            self._closing.append(pb.Close(sequence_id=sequence_id, learn=False))
            sequence_id += LEARNED_BY
            self._opening.append(tracked.opening(sequence_id, self._vocabulary, 0))
        elif tracked.has_news:
            self._last_words.append(tracked.observation(sequence_id, 0))
        self._closing.append(pb.Close(sequence_id=sequence_id, learn=learn))

    def tree(self, sequence_id: int) -> DraftTree:
        """Take the newest tree, re-rooted under what was emitted since it was drafted."""
        self._take_in()
        tracked = self._tracked.get(sequence_id)
        return EMPTY_TREE if tracked is None else tracked.take_tree()

    def observe(self, sequence_id: int, *, num_verified: int, successors: Successors) -> None:
        """Note what a step verified; the emitted tokens stand at the end of `token_ids`."""
        tracked = self._tracked.get(sequence_id)
        if tracked is not None:
            tracked.observe(num_verified, successors)

    def request(self, wanted: dict[int, int]) -> None:
        """Ask for trees of at most so many nodes, unless an answer is still outstanding."""
        self._take_in()
        if self._stream is None:
            return
        if not self._is_answered:
            if time.perf_counter() - self._sent_at > HANG_S:
                logger.warning("drafter_hangs waited_s=%.1f", time.perf_counter() - self._sent_at)
                self._stream.cancel()
            return
        message = self._message(wanted)
        if message.open or message.observe or message.close:
            self._sent_at = time.perf_counter()
            self._is_answered = False
            self._stream.send(message)

    def wait(self, deadline_s: float) -> None:
        """Wait for the answer, at most so long, and not at all after a late one."""
        self._deadline_s = deadline_s
        self._take_in()
        while not self._is_answered and self._is_trusted:
            left = self._sent_at + deadline_s - time.perf_counter()
            if left <= 0 or not self._has_come.wait(left):
                self._is_trusted = False
                self.num_deadline_misses += 1
            self._take_in()

    def _message(self, wanted: dict[int, int]) -> pb.DraftRequest:
        self._step += 1
        message = pb.DraftRequest(
            step=self._step, open=self._opening, observe=self._last_words, close=self._closing
        )
        self._opening, self._last_words, self._closing = [], [], []
        for sequence_id, tracked in self._tracked.items():
            max_nodes = wanted.get(sequence_id, 0)
            if not tracked.is_open:
                message.open.append(tracked.opening(sequence_id, self._vocabulary, max_nodes))
            elif tracked.has_news or max_nodes:
                message.observe.append(tracked.observation(sequence_id, max_nodes))
        return message

    def _take_in(self) -> None:
        """Follow what has come since the last look."""
        self._has_come.clear()
        while self._inbox:
            news = self._inbox.popleft()
            if isinstance(news, _Reply):
                self._receive(news)
            else:
                self._begin(news)

    def _begin(self, stream: _Stream | None) -> None:
        """Go on with every sequence on a new stream, or without one."""
        self._stream, self._is_answered = stream, True
        self._opening, self._last_words, self._closing = [], [], []
        for tracked in self._tracked.values():
            tracked.is_open = False

    def _receive(self, reply: _Reply) -> None:
        self.num_replies += 1
        self.last_hop_s = reply.at - self._sent_at
        self._is_trusted = self.last_hop_s <= max(self._deadline_s, 1e-3)
        self._is_answered = True
        for sequence_id in reply.response.unknown_sequence_ids:
            if sequence_id in self._tracked:
                self._tracked[sequence_id].is_open = False
        for draft in reply.response.drafts:
            tracked = self._tracked.get(draft.sequence_id)
            if tracked is not None:
                self._keep(tracked, draft)

    def _keep(self, tracked: RemoteSequence, draft: pb.Draft) -> None:
        """The one place where a bad draft becomes no draft."""
        try:
            tracked.keep(draft, self._vocabulary_size)
        except InvalidTree as error:
            self.num_invalid += 1
            logger.warning("draft_refused sequence=%d reason=%s", draft.sequence_id, error)


async def _send(call: DraftCall, requests: asyncio.Queue[pb.DraftRequest]) -> None:
    """Write requests as they come, until the call ends; whoever reads it hears why."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await requests.get())
