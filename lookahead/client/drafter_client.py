"""Talks to one drafter about what it remembers; generation never goes this way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from lookahead.client.closing import Closing
from lookahead.client.errors import LookaheadError, translated
from protos import drafter_pb2 as pb
from protos import drafter_pb2_grpc as pb_grpc
from rpc.tls import TlsFiles, open_channel

DEFAULT_DRAFTER = "127.0.0.1:50052"
TIMEOUT_S = 30.0

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """One namespace as one drafter holds it."""

    vocabulary: str
    namespace: str
    num_tokens: int
    num_bytes: int
    digest: str
    log_position: str
    lag_entries: int
    lag_s: float


class DrafterClient(Closing):
    """Calls one drafter. Close it, or use `with`."""

    def __init__(self, address: str = DEFAULT_DRAFTER, *, tls: TlsFiles | None = None) -> None:
        self.address = address
        self._channel = open_channel(address, tls, ())
        self._stub = pb_grpc.DrafterServiceStub(self._channel)

    def namespaces(self, prefix: str = "") -> list[NamespaceInfo]:
        """Describe the namespaces in the drafter's memory."""
        request = pb.DescribeNamespacesRequest(prefix=prefix)
        found = self._call(self._stub.DescribeNamespaces, request, timeout=TIMEOUT_S)
        return [
            NamespaceInfo(
                vocabulary=item.vocabulary,
                namespace=item.namespace,
                num_tokens=item.num_tokens,
                num_bytes=item.num_bytes,
                digest=item.digest,
                log_position=item.log_position,
                lag_entries=item.lag_entries,
                lag_s=item.lag_s,
            )
            for item in found.namespaces
        ]

    def learn(self, vocabulary: str, namespace: str, runs: Iterable[Sequence[int]]) -> int:
        """Teach token runs as fast as the drafter takes them; return how many tokens."""
        failures: list[Exception] = []

        def requests() -> Iterator[pb.LearnRequest]:
            try:
                for run in runs:
                    yield pb.LearnRequest(vocabulary=vocabulary, namespace=namespace, token_ids=run)
            except Exception as error:
                # gRPC would only say that the requests ended.
                failures.append(error)
                raise

        try:
            return int(self._call(self._stub.Learn, requests()).num_tokens)
        except LookaheadError:
            if failures:
                raise failures[0] from None
            raise

    def forget(self, vocabulary: str, namespace: str) -> int:
        """Forget a namespace on all drafters; return how many tokens this one held."""
        request = pb.ForgetRequest(vocabulary=vocabulary, namespace=namespace)
        return int(self._call(self._stub.Forget, request, timeout=TIMEOUT_S).num_tokens)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(
        self, method: Callable[..., Response], request: object, timeout: float | None = None
    ) -> Response:
        with translated():
            return method(request, timeout=timeout)
