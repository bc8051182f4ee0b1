"""What Redis holds of each namespace: can drafters follow it?"""

import asyncio

from lookahead.doctor.finding import Finding, warning
from lookahead.stack.stack import NO_REDIS

_SHOWN = 5


def check_spaces(url: str) -> list[Finding]:
    """One line for each namespace that no drafter can follow, up to a few."""
    if url in ("", NO_REDIS):
        return []
    from drafter.log.inspect import read_troubles  # needs the drafter's packages

    try:
        troubles = asyncio.run(read_troubles(url))
    except (ConnectionError, ValueError):
        return []  # the check of Redis itself has said so
    do = "start a drafter: it repairs them from the log and its memory, and logs what it lost"
    found = [
        warning("memory", f"{space}: {what}", do) for space, what in list(troubles.items())[:_SHOWN]
    ]
    if len(troubles) > _SHOWN:
        found.append(warning("memory", f"{len(troubles) - _SHOWN} more like these", do))
    return found
