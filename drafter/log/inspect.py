"""Looks at all spaces in Redis, as an operator would, and says which ones cannot be followed."""

from drafter.log.protocol import Page
from drafter.log.redis_log import KEYS_OF_SPACES, RedisLog, space_of_key
from drafter.trie.snapshot import Generation, Pointer, SnapshotError, load_header, load_pointer

_MAX_SPACES = 10_000
_MAX_KEYS = 10 * _MAX_SPACES
_END = ((1 << 64) - 1, (1 << 64) - 1)
_MAX_LEN = 1 << 40  # nothing but the header is read


async def read_troubles(url: str) -> dict[str, str]:
    """Return what is wrong, by space; ConnectionError where Redis does not answer.

    Looks at the first ten thousand spaces that Redis names.
    """
    log = RedisLog(url)
    try:
        found = {}
        for space in await _spaces(log):
            trouble = await _trouble(log, space)
            if trouble:
                found[space] = trouble
        return found
    finally:
        await log.close()


async def _spaces(log: RedisLog) -> list[str]:
    found: dict[str, None] = {}
    num_keys = 0
    async for key in log.keys(KEYS_OF_SPACES):
        num_keys += 1
        if space := space_of_key(key):
            found[space] = None
        if len(found) >= _MAX_SPACES or num_keys >= _MAX_KEYS:
            break
    return list(found)


async def _trouble(log: RedisLog, space: str) -> str:
    if wrong := await log.wrong_keys(space):
        return f"of another type than ours: {', '.join(sorted(wrong))}"
    page = await log.read(space, _END)
    if page.pointer is None:
        return ""
    try:
        pointer = load_pointer(page.pointer)
    except SnapshotError as error:
        return str(error)
    reasons = [await _refusal(log, space, pointer, each, page) for each in pointer.generations]
    return "" if "" in reasons else reasons[0]


async def _refusal(
    log: RedisLog, space: str, pointer: Pointer, generation: Generation, page: Page
) -> str:
    """Say why a generation cannot be used; empty where its header and place in the log are good."""
    head = await log.read_part(space, generation.key, "header")
    if head is None:
        return f"{generation.key}: the header is missing"
    try:
        position = load_header(head, space=space, max_len=_MAX_LEN).position
    except SnapshotError as error:
        return f"{generation.key}: {error}"
    said = (position.base, position.cursor, position.num_tokens)
    if said != (pointer.base, generation.covered, generation.num_tokens):
        return f"{generation.key}: is not what the pointer says"
    there = await log.read(space, position.cursor)
    if there.pointer != page.pointer or there.leads_on(position):
        return ""
    return f"{generation.key}: the log does not go on from it"
