"""Processes that are killed, stopped or full, again and again: same words, or a clean error."""

import time
from collections.abc import Callable, Iterator

from redis import Redis

from bench.chaos.target import POLITE, Target, target
from bench.chaos.witness import Witness, others, witness
from bench.serving.figures import Figure

SECTION = "killed and stopped processes"
STOPPED_S = 3.0
AFTERWARDS = 3  # answers
FLAPS = 5
LONGEST_S = 60.0


def killed(kills: int, rounds: int = 1) -> list[Figure]:
    """Hurt the drafter and Redis, then the verifier; a supervisor starts again what has died."""
    figures: list[Figure] = []
    for embeds in (False, True):
        with target(embeds=embeds) as stack, witness(stack.http, POLITE) as polite:
            figures += _memory_faults(stack, polite, rounds, embeds=embeds)
    with target() as stack, witness(stack.http, POLITE) as polite:
        return figures + _verifier_kills(stack, polite, kills)


def _memory_faults(
    stack: Target, polite: Witness, rounds: int, *, embeds: bool
) -> Iterator[Figure]:
    polite.calm()
    start = polite.mark()
    faults = [fault for fault in _faults(stack) for _ in range(rounds)]
    for fault in faults:
        fault()
        polite.wait_for(AFTERWARDS, polite.mark())
    seen = polite.seen(start)
    where = "embedded" if embeds else "in a service"
    section = f"{SECTION}: memory {where}"
    yield Figure(section, "faults of the drafter and of Redis", len(faults), "")
    yield from others(section, seen, polite.text)


def _faults(stack: Target) -> list[Callable[[], None]]:
    def fill() -> None:
        with _redis(stack) as client:
            client.config_set("maxmemory", 1)
            time.sleep(STOPPED_S)
            client.config_set("maxmemory", 0)

    def overwrite() -> None:
        with _redis(stack) as client:
            for key in client.keys("lookahead:*"):
                client.delete(key)
                client.set(key, b"\xff" * 1000)

    def flap() -> None:
        for _ in range(FLAPS):
            stack.freeze("drafter", STOPPED_S / FLAPS / 2)
            time.sleep(STOPPED_S / FLAPS / 2)

    return [
        lambda: stack.kill("drafter"),
        lambda: stack.freeze("drafter", STOPPED_S),
        flap,
        fill,
        lambda: stack.freeze("redis", STOPPED_S),
        lambda: stack.kill("redis"),
        overwrite,
    ]


def _redis(stack: Target) -> "Redis":
    url = (stack.stack.config.directory / "redis.url").read_text()
    return Redis(unix_socket_path=url.removeprefix("unix://"), socket_timeout=5)


def _verifier_kills(stack: Target, polite: Witness, kills: int) -> list[Figure]:
    polite.calm()
    start = polite.mark()
    longest_s = 0.0
    for _ in range(kills):
        began = time.monotonic()
        stack.kill("verifier")
        polite.wait_for(1, polite.mark())
        longest_s = max(longest_s, time.monotonic() - began)
    seen = polite.seen(start)
    section = f"{SECTION}: the verifier"
    wrong = seen.num_different(polite.text)
    return [
        Figure(section, "kills", kills, ""),
        Figure(section, "answers that look whole and are not", wrong, "", at_most=0),
        Figure(section, "requests that ended with an error that says so", len(seen.failures), ""),
        Figure(section, "answers between the kills", seen.num_answers, ""),
        Figure(section, "longest until answers come again", longest_s, "s", at_most=LONGEST_S),
    ]
