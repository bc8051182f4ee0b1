"""The verifier's end of the Draft stream. Drafts are advice: whatever goes wrong, no tree comes.

One request is in flight at a time and batches all sequences. A reply that came too late is kept
and re-rooted under the tokens emitted meanwhile. When the stream breaks, sequences are opened
again on the next drafter from their prompt and output.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

import grpc

from protos import drafter_pb2 as pb
from rpc.tls import TlsFiles
from verifier.request import Speculation
from verifier.speculation.drafter_connection import DraftCall, DrafterConnection
from verifier.speculation.remote_sequence import RemoteSequence
from verifier.speculation.tree import EMPTY_TREE, DraftTree, InvalidTree

logger = logging.getLogger(__name__)

HANG_S = 2.0  # a reply later than this means the drafter hangs: try another one


class DraftClient:
    """Drafts for all live sequences of one engine. Lives on the event loop."""

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
        self._connection = DrafterConnection(addresses, tls)
        self._vocabulary = vocabulary
        self._vocabulary_size = vocabulary_size
        self._tracked: dict[int, RemoteSequence] = {}
        self._closing: list[pb.Close] = []
        self._last_words: list[pb.Observe] = []  # of sequences that are closing
        self._step = 0
        self._sent_at = 0.0
        self._is_trusted = True  # the last reply came within its deadline
        self._deadline_s = 0.0
        self._requests: asyncio.Queue[pb.DraftRequest] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._answered.set()
        self._call: DraftCall | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """A stream to a drafter is up, as far as is known."""
        return self._call is not None

    def start(self) -> None:
        """Connect in the background, and again whenever the stream breaks."""
        self._task = asyncio.create_task(self._connection.keep(self._talk), name="draft-client")

    async def stop(self) -> None:
        """Close the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

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
        if tracked.has_news:
            self._last_words.append(tracked.observation(sequence_id, 0))
        self._closing.append(pb.Close(sequence_id=sequence_id, learn=learn))

    def tree(self, sequence_id: int) -> DraftTree:
        """Take the newest tree, re-rooted under what was emitted since it was drafted."""
        tracked = self._tracked.get(sequence_id)
        return EMPTY_TREE if tracked is None else tracked.take_tree()

    def observe(
        self, sequence_id: int, *, num_verified: int, successors: Sequence[Sequence[int]]
    ) -> None:
        """Note what a step verified; the emitted tokens stand at the end of `token_ids`."""
        tracked = self._tracked.get(sequence_id)
        if tracked is not None:
            tracked.observe(num_verified, successors)

    def request(self, wanted: dict[int, int]) -> None:
        """Ask for trees of at most so many nodes, unless an answer is still outstanding."""
        if self._call is None:
            return
        if not self._answered.is_set():
            if time.perf_counter() - self._sent_at > HANG_S:
                logger.warning("drafter_hangs waited_s=%.1f", time.perf_counter() - self._sent_at)
                self._call.cancel()
            return
        message = self._message(wanted)
        if message.open or message.observe or message.close:
            self._sent_at = time.perf_counter()
            self._answered.clear()
            self._requests.put_nowait(message)

    async def wait(self, deadline_s: float) -> None:
        """Wait for the answer, at most so long, and not at all after a late one."""
        self._deadline_s = deadline_s
        if self._answered.is_set() or not self._is_trusted:
            return
        left = self._sent_at + deadline_s - time.perf_counter()
        try:
            async with asyncio.timeout(max(left, 0)):
                await self._answered.wait()
        except TimeoutError:
            self._is_trusted = False
            self.num_deadline_misses += 1

    def _message(self, wanted: dict[int, int]) -> pb.DraftRequest:
        self._step += 1
        message = pb.DraftRequest(step=self._step, observe=self._last_words, close=self._closing)
        self._last_words, self._closing = [], []
        for sequence_id, tracked in self._tracked.items():
            max_nodes = wanted.get(sequence_id, 0)
            if not tracked.is_open:
                message.open.append(tracked.opening(sequence_id, self._vocabulary, max_nodes))
            elif tracked.has_news or max_nodes:
                message.observe.append(tracked.observation(sequence_id, max_nodes))
        return message

    async def _talk(self, call: DraftCall) -> None:
        """Go on with every sequence on a new stream, until it breaks."""
        self._call, self._requests = call, asyncio.Queue()
        self._answered.set()
        # Not by a request iterator: gRPC leaves the task that reads it behind.
        sender = asyncio.create_task(_send(call, self._requests), name="draft-sender")
        try:
            async for response in call:
                self._receive(response)
        finally:
            sender.cancel()
            await asyncio.wait([sender])
            self._disconnect()

    def _disconnect(self) -> None:
        self._call = None
        self._last_words, self._closing = [], []
        self._answered.set()
        for tracked in self._tracked.values():
            tracked.is_open = False

    def _receive(self, response: pb.DraftResponse) -> None:
        self.num_replies += 1
        self.last_hop_s = time.perf_counter() - self._sent_at
        self._is_trusted = self.last_hop_s <= max(self._deadline_s, 1e-3)
        for sequence_id in response.unknown_sequence_ids:
            if sequence_id in self._tracked:
                self._tracked[sequence_id].is_open = False
        for draft in response.drafts:
            tracked = self._tracked.get(draft.sequence_id)
            if tracked is not None:
                self._keep(tracked, draft)
        self._answered.set()
        if self._closing:
            self.request({})  # the engine may be idle by now

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
