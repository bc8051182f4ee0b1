"""Which names a namespace may have, and what is said of others."""

import pytest

from rpc.contract import MAX_NAME_CHARS, problem_with_name


@pytest.mark.parametrize("name", ["a", "team-a.user_1", "A9", "." * MAX_NAME_CHARS])
def test_a_name_of_letters_digits_and_three_signs_is_good(name: str) -> None:
    assert problem_with_name(name) is None
    assert problem_with_name(name, may_be_empty=True) is None


@pytest.mark.parametrize(
    "name", ["a b", "a/b", "a:b", "{a}", "a\n", "\n", "é", "a*", "x" * (MAX_NAME_CHARS + 1)]
)
def test_any_other_name_is_refused_with_the_rule(name: str) -> None:
    assert problem_with_name(name) == "must be 1 to 128 of A-Z a-z 0-9 . _ -"
    assert problem_with_name(name, may_be_empty=True) == "must be at most 128 of A-Z a-z 0-9 . _ -"


def test_an_empty_name_is_good_only_where_it_stands_for_a_default() -> None:
    assert problem_with_name("") == "must be 1 to 128 of A-Z a-z 0-9 . _ -"
    assert problem_with_name("", may_be_empty=True) is None
