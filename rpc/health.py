"""Asks a server of ours whether it is ready: `python -m rpc.health HOST:PORT`, status 0 if so."""

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc.tls import TlsFiles, open_channel

# A new channel must not inherit the back-off of one that tried before the server was up.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def is_serving(
    address: str, timeout_s: float = 0.5, *, service: str = "", tls: TlsFiles | None = None
) -> bool:
    """Whether the health service at `address` says SERVING; `service` empty: the whole server."""
    status = health(address, timeout_s, service=service, tls=tls)
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def health(
    address: str, timeout_s: float = 0.5, *, service: str = "", tls: TlsFiles | None = None
) -> int | None:
    """What the health service at `address` says; None where there is none."""
    with open_channel(address, tls, OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            status: int = stub.Check(request, timeout=timeout_s).status
        except grpc.RpcError:
            return None
    return status


def main() -> None:
    """Exit with status 0 if the server is ready, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m rpc.health", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--service", default="", help="ask about this service only")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    parser.add_argument("--ca", default="", help="PEM file: who signed the server's certificate")
    parser.add_argument("--cert", default="", help="PEM file: our own certificate")
    parser.add_argument("--key", default="", help="PEM file: its key")
    given = parser.parse_args()
    tls = TlsFiles(ca=given.ca, cert=given.cert, key=given.key) if given.ca else None
    ready = is_serving(given.address, given.timeout, service=given.service, tls=tls)
    sys.exit(0 if ready else 1)


if __name__ == "__main__":
    main()
