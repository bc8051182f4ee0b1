"""Names become drafters: all are tried, the near ones first, and new ones are found."""

import asyncio
import random
import socket
from collections import Counter
from typing import Any

import pytest

from verifier.speculation.drafter_connection import DrafterEndpoint, DrafterEndpoints

Book = dict[str, list[str]]


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    """What the resolver knows; a test may change it."""
    known: Book = {}

    async def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(f"{host} is unknown")
        return [(socket.AF_INET, 0, 0, "", (address, port)) for address in known[host]]

    def loop_getaddrinfo(self: Any, host: str, port: int, **options: Any) -> Any:
        return getaddrinfo(host, port, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", loop_getaddrinfo)
    return known


async def take(drafters: DrafterEndpoints, number: int) -> list[str]:
    return [(await drafters.next()).address for _ in range(number)]


async def test_every_address_is_tried_before_one_is_tried_again(book: Book) -> None:
    book |= {"near": ["10.0.0.1"], "all": ["10.0.0.2", "10.0.0.3", "10.0.0.4"]}
    drafters = DrafterEndpoints(["near:1", "all:1"])
    first, second = await take(drafters, 4), await take(drafters, 4)
    assert first[0] == second[0] == "10.0.0.1:1"
    assert set(first) == set(second) and len(set(first)) == 4


async def test_verifiers_spread_over_the_addresses_of_a_name(book: Book) -> None:
    book["all"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    firsts = [
        (await DrafterEndpoints(["all:1"], random.Random(seed)).next()).address
        for seed in range(300)
    ]
    assert all(60 < count < 140 for count in Counter(firsts).values())
    assert len(set(firsts)) == 3


async def test_after_a_lost_drafter_come_all_others_first(book: Book) -> None:
    book["all"] = ["10.0.0.1", "10.0.0.2"]
    drafters = DrafterEndpoints(["all:1"])
    lost = await drafters.next()
    drafters.connected(lost)
    assert (await drafters.next()) != lost


async def test_new_addresses_are_found_and_gone_ones_forgotten(book: Book) -> None:
    book["all"] = ["10.0.0.1"]
    drafters = DrafterEndpoints(["all:1"])
    drafters.connected(await drafters.next())
    book["all"] = ["10.0.0.9"]
    assert await take(drafters, 3) == ["10.0.0.9:1"] * 3


async def test_an_unknown_name_is_left_to_grpc(book: Book) -> None:
    assert await DrafterEndpoints(["nobody:1"]).next() == DrafterEndpoint("nobody:1", "nobody")


async def test_sockets_and_addresses_of_six_are_understood(book: Book) -> None:
    book["::1"] = ["::1"]
    assert await DrafterEndpoints(["unix:/run/d.sock"]).next() == DrafterEndpoint(
        "unix:/run/d.sock", "unix"
    )
    assert await DrafterEndpoints(["[::1]:50052"]).next() == DrafterEndpoint("[::1]:50052", "::1")
