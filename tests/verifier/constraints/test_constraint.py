"""Constrained outputs have the form asked for, and drafting changes none of them."""

import json
import random
import re

import jsonschema
import pytest

from tests.support.models.constrained_runs import (
    SAMPLINGS,
    TEXT,
    Outcome,
    constraints,
    knowing,
    model,
    request,
    run,
)
from tests.support.models.engine_runs import ids_of
from tests.support.models.small_tokenizers import small_tokenizer
from verifier.constraints.constraint import Constraint, ConstraintError, Kind
from verifier.request import Mode
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import FinishReason

KINDS = ("byte_level", "llama", "gemma")


def text_of(outcome: Outcome) -> str:
    runs, completion = outcome
    return "".join(run.text for run in runs) + completion.text


def check_form(constraint: Constraint, text: str) -> None:
    if constraint.kind is Kind.JSON_SCHEMA:
        jsonschema.validate(json.loads(text), json.loads(constraint.texts[0]))
    elif constraint.kind is Kind.REGEX:
        assert re.fullmatch(constraint.texts[0], text), text
    else:
        assert text in constraint.texts


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_have_the_form_and_drafting_changes_none(kind: str, name: str) -> None:
    forms = constraints()
    sampling = SAMPLINGS[name]
    plain = run(kind, [request(kind, form, sampling=sampling) for form in forms])
    for form, outcome in zip(forms, plain, strict=True):
        assert outcome[1].finish.reason is FinishReason.STOP, form
        check_form(form, text_of(outcome))
    answers = [ids_of(runs) for runs, _ in plain]
    num_accepted = 0
    for mode in (Mode.CHAIN, Mode.TREE):
        drafted = run(
            kind,
            [request(kind, form, mode=mode, sampling=sampling) for form in forms],
            knowing(kind, answers),
        )
        assert [ids_of(runs) for runs, _ in drafted] == answers
        assert list(map(text_of, drafted)) == list(map(text_of, plain))
        num_accepted += sum(completion.num_accepted_tokens for _, completion in drafted)
    assert num_accepted > sum(map(len, answers)) / 2


LARK = 'start: "SELECT " NAME (", " NAME)*\nNAME: /[a-z]+/  // a column'
GBNF = 'root ::= "SELECT " name (", " name)*\nname ::= [a-z]+'


@pytest.mark.parametrize("text", [LARK, GBNF])
@pytest.mark.parametrize("kind", ["byte_level", "llama"])
def test_a_grammar_is_followed_in_either_language(kind: str, text: str) -> None:
    tokenizer = small_tokenizer(kind)
    grammar = tokenizer.grammars.compile(Constraint(Kind.GRAMMAR, (text,)))
    for output, is_whole in (("SELECT a, bc", True), ("SELECT a, ", False), ("SELECT a;", None)):
        matcher = grammar.start()
        ids = tokenizer.encode(output, special_tokens=False)
        allowed = True
        for token_id in ids:
            allowed = allowed and bool(matcher.allowed(tokenizer.size)[token_id])
            if allowed:
                matcher.push(token_id)
        assert allowed == (is_whole is not None), output
        if allowed:
            assert matcher.allows(min(tokenizer.eos_token_ids)) == is_whole


@pytest.mark.parametrize("text", ["start: missing", "nothing", 'root ::= "a'])
def test_a_grammar_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError):
        small_tokenizer("byte_level").grammars.compile(Constraint(Kind.GRAMMAR, (text,)))


def test_seeds_explore_the_choices() -> None:
    form = Constraint(Kind.CHOICES, ("red", "green", "blue"))
    requests = [
        request("byte_level", form, sampling=SamplingParams(temperature=5.0, seed=seed))
        for seed in range(40)
    ]
    assert {text_of(outcome) for outcome in run("byte_level", requests)} == {"red", "green", "blue"}


def test_greedy_takes_the_best_token_that_is_allowed() -> None:
    """Against a naive reference: at each step all whole continuations are tried."""
    kind, tokenizer = "byte_level", small_tokenizer("byte_level")
    texts = ("the quick", "the lazy", "a stitch")
    [(runs, _)] = run(kind, [request(kind, Constraint(Kind.CHOICES, texts))])
    so_far: list[int] = []
    prompt = tokenizer.encode(TEXT)
    for token_id in ids_of(runs):
        logits = model(kind).stock_logits([*prompt, *so_far])[-1]
        done = tokenizer.decode(so_far)
        allowed = [
            i
            for i in range(tokenizer.size)
            if i not in tokenizer.special_ids
            and any(t.startswith(tokenizer.decode([*so_far, i])) for t in texts)
            and tokenizer.decode([i])
        ]
        allowed += tokenizer.eos_token_ids if done in texts else []
        assert token_id == max(allowed, key=lambda i: float(logits[i]))
        so_far.append(token_id)
    assert so_far[-1] in tokenizer.eos_token_ids


def test_the_form_ends_the_output_before_min_tokens_and_nothing_else_does() -> None:
    form = Constraint(Kind.CHOICES, ("red",))
    [short] = run("byte_level", [request("byte_level", form, min_tokens=50)])
    assert text_of(short) == "red"
    form = Constraint(Kind.REGEX, ("[a-z]*",))
    [long] = run("byte_level", [request("byte_level", form, min_tokens=40, num_tokens=60)])
    assert len(ids_of(long[0])) > 40


def test_max_tokens_and_stop_strings_may_cut_the_form() -> None:
    form = Constraint(Kind.REGEX, ("(ab){20}",))
    [by_length, by_string] = run(
        "byte_level",
        [
            request("byte_level", form, num_tokens=5),
            request("byte_level", form, stop_strings=("aba",)),
        ],
    )
    assert by_length[1].finish.reason is FinishReason.LENGTH
    assert ("ab" * 20).startswith(text_of(by_length))
    assert by_string[1].finish.stop_string == "aba"
    assert text_of(by_string) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Constraint(Kind.REGEX, ("(a",)), "unclosed group"),
        (Constraint(Kind.REGEX, ("a)|(b",)), "unopened group"),
        (Constraint(Kind.REGEX, ("(?=a)b",)), "look-around"),
        (Constraint(Kind.REGEX, (r"[^\s\S]",)), "no output"),
        (Constraint(Kind.JSON_SCHEMA, ('{"type": "text"}',)), "text"),
        (Constraint(Kind.JSON_SCHEMA, ('{"not": {}}',)), "not"),
        (Constraint(Kind.JSON_SCHEMA, ('{"$ref": "https://example.org/x"}',)), "fetch"),
        (Constraint(Kind.JSON_SCHEMA, ("[]",)), "object or boolean"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(
    kind: str, form: Constraint, reason: str
) -> None:
    with pytest.raises(ConstraintError, match=reason):
        small_tokenizer(kind).grammars.compile(form)


@pytest.mark.parametrize("kind", ["wordpiece", "bare", "suffix"])
def test_tokenizers_whose_texts_depend_on_neighbours_are_refused(kind: str) -> None:
    with pytest.raises(ConstraintError, match="not possible with this model's tokenizer"):
        _ = small_tokenizer(kind).grammars


@pytest.mark.parametrize(
    "form",
    [
        Constraint(Kind.REGEX, ("((a|b|cd){1,1000}x){1,1000}",)),
        Constraint(Kind.REGEX, (r"(.*a.{30}){9}(\p{L}{1,900}|\w+){500}",)),
        Constraint(Kind.JSON_SCHEMA, (json.dumps({"enum": [str(i * 7919) for i in range(5000)]}),)),
    ],
)
def test_forms_that_explode_are_served_or_refused_soon(form: Constraint) -> None:
    tokenizer = small_tokenizer("byte_level")
    try:
        matcher = tokenizer.grammars.compile(form).start()
    except ConstraintError:
        return
    assert matcher.allowed(tokenizer.size).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
def test_one_token_is_allowed_where_the_mask_of_all_says_so(kind: str) -> None:
    tokenizer, rng = small_tokenizer(kind), random.Random(3)
    for constraint in constraints():
        matcher = tokenizer.grammars.compile(constraint).start()
        for _ in range(40):
            mask = matcher.allowed(tokenizer.size).tolist()
            assert [matcher.allows(i) for i in range(tokenizer.size)] == mask
            ends = tokenizer.eos_token_ids
            allowed = [i for i, is_allowed in enumerate(mask) if is_allowed and i not in ends]
            if not allowed:
                break
            matcher.push(rng.choice(allowed))


def test_the_end_of_a_text_is_drafted_like_its_tokens() -> None:
    form = Constraint(Kind.CHOICES, ("red",))
    [(runs, end)] = run("llama", [request("llama", form, mode=Mode.AUTO)])
    assert len(ids_of(runs)) > 2
    assert end.num_steps == 1, "the first token comes with the prompt, all others in one step"
