"""Asks a gateway whether it is ready; also as `python -m lookahead.gateway.probe ADDRESS`."""

import http.client
import sys


def is_ready(address: str, timeout_s: float = 1.5) -> bool:
    """Whether the gateway at host:port answers, and a verifier behind it."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if is_ready(sys.argv[1]) else 1)
