"""A client that stops reading loses its stream, and nothing of it stays in the server."""

import asyncio

import grpc
import pytest

from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from tests.support.servers.running_verifier import TIMEOUT_S, running

pytestmark = pytest.mark.slow

# A window that a few messages with twenty alternatives per token fill.
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]


def a_long_request() -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[65, 66]),
        stopping=pb.Stopping(max_tokens=240, ignore_eos=True),
        output=pb.Output(logprobs=True, top_logprobs=20),
    )


async def test_a_client_that_stops_reading_loses_its_stream() -> None:
    async with running() as verifier:
        assert verifier.service.backend is not None
        verifier.service.backend.write_timeout_s = 0.2
        port = verifier.port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SMALL_WINDOW) as channel:
            call = pb_grpc.VerifierServiceStub(channel).Generate(a_long_request())
            await call.read()
            async with asyncio.timeout(TIMEOUT_S):
                while not verifier.server.calls["Generate", "CANCELLED"]:
                    await asyncio.sleep(0.01)
            call.cancel()
        await verifier.until_idle()
        # The next one, which reads, is served as if nothing had been.
        events = [event async for event in verifier.stub.Generate(a_long_request())]
        assert events[-1].finished.usage.num_output_tokens == 240
