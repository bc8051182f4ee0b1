"""What is put away: only as much as must be, the longest unused first, each tenant for itself."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from drafter.memory.quota import LearnQuota
from drafter.memory.room import Resident, RoomLimits, make_room, tenant_of

RESIDENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 50), st.booleans(), st.booleans()), max_size=25
)
LIMITS = st.builds(
    RoomLimits,
    max_bytes=st.integers(0, 400),
    max_spaces=st.integers(0, 20),
    max_tenant_bytes=st.integers(0, 300),
    max_tenant_spaces=st.integers(0, 15),
)


def within(held: list[Resident], limits: RoomLimits, times: int) -> bool:
    num_bytes = sum(resident.num_bytes for resident in held)
    return num_bytes <= limits.max_bytes and len(held) <= times * limits.max_spaces


def tenants_too_large(held: list[Resident], limits: RoomLimits) -> set[str]:
    num_bytes: Counter[str] = Counter()
    for resident in held:
        num_bytes[tenant_of(resident.space)] += resident.num_bytes
    number = Counter(tenant_of(resident.space) for resident in held)
    return {
        tenant
        for tenant in number
        if num_bytes[tenant] > limits.max_tenant_bytes or number[tenant] > limits.max_tenant_spaces
    }


@given(RESIDENTS, LIMITS)
def test_room_is_made_within_limits_and_no_more(
    given_spaces: list[tuple[str, int, bool, bool]], limits: RoomLimits
) -> None:
    """A naive reference looks at everything that is left again before each single step."""
    residents, refusing = [], set()
    for number, (tenant, num_bytes, sending, in_use) in enumerate(given_spaces):
        space = f"v/{tenant}.{number}"
        residents.append(Resident(space, num_bytes, number, sending))
        if in_use:
            refusing.add(space)
    gone: list[str] = []

    def put_away(space: str) -> bool:
        if space in refusing:
            return False
        gone.append(space)
        return True

    make_room(reversed(residents), limits, put_away)
    expected = reference(residents, limits, refusing)
    assert gone == expected


def reference(residents: list[Resident], limits: RoomLimits, refusing: set[str]) -> list[str]:
    held, gone = list(residents), []

    def first(fits: "list[Resident]") -> Resident | None:
        return next((r for r in fits if r.space not in refusing), None)

    while large := tenants_too_large(held, limits):
        idle = [r for r in held if tenant_of(r.space) in large and not r.sending]
        if (victim := first(idle)) is None:
            break
        held.remove(victim)
        gone.append(victim.space)
    for times, sending in ((1, False), (2, True)):
        while not within(held, limits, times):
            victim = first([r for r in held if sending or not r.sending])
            if victim is None:
                break
            held.remove(victim)
            gone.append(victim.space)
    return gone


def test_a_flood_by_one_tenant_puts_away_its_own_spaces() -> None:
    limits = RoomLimits(max_bytes=1000, max_spaces=100, max_tenant_spaces=10)
    polite = [Resident(f"v/polite.{n}", 1, n, sending=False) for n in range(5)]
    flood = [Resident(f"v/flood.{n}", 1, 100 + n, sending=False) for n in range(500)]
    gone: list[str] = []

    def put_away(space: str) -> bool:
        gone.append(space)
        return True

    make_room(polite + flood, limits, put_away)
    assert gone == [f"v/flood.{n}" for n in range(490)]


def test_the_quota_of_a_tenant_fills_again_within_a_minute() -> None:
    now_s = 100.0
    quota = LearnQuota(600, lambda: now_s)
    assert quota.take("a", 500)
    assert not quota.take("a", 200)
    assert quota.take("b", 600)
    now_s += 10.0
    assert quota.take("a", 200)
    assert not quota.take("a", 1)
    assert quota.refused_tokens == 201


def test_a_run_longer_than_a_minutes_tokens_is_taken_once() -> None:
    now_s = 100.0
    quota = LearnQuota(600, lambda: now_s)
    assert quota.take("a", 1200)
    now_s += 59.0
    assert not quota.take("a", 20)
    now_s += 3.0
    assert quota.take("a", 20)
