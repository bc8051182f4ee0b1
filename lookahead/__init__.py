"""What a user touches: the Python client, the command line and the local stack."""

from lookahead.client import AsyncClient, Client, LookaheadError

__all__ = ["AsyncClient", "Client", "LookaheadError"]
