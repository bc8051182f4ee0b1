"""Asks a server of ours whether it is ready."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookahead.client import OPTIONS


def is_serving(address: str, timeout_s: float = 0.5) -> bool:
    """Whether the health service at `address` says SERVING."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
