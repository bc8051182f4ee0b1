"""Whether each process can listen where it should, or does already."""

from lookahead.doctor.finding import Finding, ok, problem
from lookahead.gateway.probe import is_ready
from lookahead.stack.stack import StackError, check_free
from lookahead.top.scrape import ScrapeError, scrape
from rpc.health import health


def check_address(name: str, address: str, option: str) -> Finding:
    """The port is free, or the right process already answers; `option` changes it."""
    try:
        check_free(address)
    except StackError:
        if _is_ours(name, address):
            return ok(name, f"already running on {address}")
        return problem(
            name, f"{address} is taken by another program", f"stop it, or choose another {option}"
        )
    return ok(name, f"{address} is free")


def _is_ours(name: str, address: str) -> bool:
    if name.endswith("metrics"):
        try:
            return scrape(address).service == name.removesuffix(" metrics")
        except ScrapeError:
            return False
    return is_ready(address) if name == "gateway" else health(address) is not None
