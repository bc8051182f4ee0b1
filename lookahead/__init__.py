"""What a user touches: the Python client, the command line and the local stack."""

from lookahead.async_client import AsyncClient
from lookahead.client import Client

__all__ = ["AsyncClient", "Client"]
