"""Run constrained requests on small models, with drafts that know the answers."""

import json
import random
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.serving.forced import AlwaysOn
from tests.support.models.engine_runs import (
    FREE_NODES,
    make_request,
    run_all,
    small_config,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.small_tokenizers import small_tokenizer
from verifier.constraints.constraint import Constraint, Kind
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.model.model import TargetModel
from verifier.request import Mode, Request
from verifier.sampling.params import SamplingParams
from verifier.speculation.tree import DraftTree

TEXT = "the fox"
SAMPLINGS = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=1.0, seed=3),
    "filters and penalties": SamplingParams(
        temperature=1.2, top_k=30, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.4, seed=9
    ),
}
SHORT_TEXT = {"type": "string", "maxLength": 6}
DIGIT = {"type": "integer", "minimum": -3, "maximum": 12}
SCHEMAS: list[object] = [
    {"type": "string", "maxLength": 12},
    {"type": "string", "pattern": "^[a-f]{2,5}-[0-9]{1,3}$"},
    {"enum": ["red", "green", 7, None, True, {"a": [1, "é日"]}]},
    {"const": {"exact": ['"\\\n', 1.5]}},
    DIGIT,
    {"type": "boolean"},
    {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 4},
    {
        "type": "object",
        "properties": {"name": SHORT_TEXT, "size": DIGIT, "tag": {"enum": ["x", "yy"]}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"inner": {"$ref": "#/$defs/pair"}},
        "required": ["inner"],
        "additionalProperties": False,
        "$defs": {"pair": {"type": "array", "prefixItems": [SHORT_TEXT, DIGIT], "items": False,
                           "minItems": 2}},
    },
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}]},
    {"type": "string", "format": "date"},
]  # fmt: skip
REGEXES = [
    "[a-c]{1,6}x",
    r"(yes|no|maybe)( indeed){0,2}",
    # Not \d: which characters of all scripts are digits depends on the edition of Unicode.
    r"[0-9]{3}-[0-9]{2}(/[0-9]{2})?",
    r" {0,2}[a-zé日]{1,4}\n[!-@]{2}",
    r"(?i)h[eé]llo 日本?",
    r"\+?[\\/|.*(){}\[\]^$-]{3}",
    "a?",
]
CHOICES = [
    ("red", "green", "blue"),
    ("a", "ab", "abc"),
    (" leading", "new\nline", 'quote " \\ back', "日本 é", "-#&~()[]{}*+?.^$|/"),
]


@cache
def model(kind: str) -> TargetModel:
    """A model whose vocabulary is that of this kind of tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=small_tokenizer(kind).size + 3,  # models often have more rows than tokens
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return target_model(LlamaForCausalLM(config).eval(), max_sequences=3, max_context=256)


def request(
    kind: str,
    constraint: Constraint,
    *,
    mode: Mode = Mode.OFF,
    sampling: SamplingParams | None = None,
    num_tokens: int = 200,
    **stopping: Any,
) -> Request:
    """A request of TEXT whose output follows the constraint."""
    tokenizer = small_tokenizer(kind)
    made = make_request(
        tokenizer.encode(TEXT),
        num_tokens,
        mode=mode,
        sampling=sampling,
        eos_token_ids=tokenizer.eos_token_ids,
        **stopping,
    )
    return replace(made, grammar=tokenizer.grammars.compile(constraint))


Outcome = tuple[list[TokenRun], Completion]


def run(kind: str, requests: list[Request], drafts: FakeDrafts | None = None) -> list[Outcome]:
    """Run the requests together on the model of this kind."""
    config = small_config()
    tokenizer = small_tokenizer(kind)
    engine = Engine(model(kind), tokenizer, drafts, FREE_NODES, config, Counters())
    engine.drafting.controller = AlwaysOn(FREE_NODES.curve.plain_units())
    return run_all(engine, requests)


def knowing(kind: str, answers: list[list[int]]) -> FakeDrafts:
    """The right answer with decoys and nodes past its end, or noise."""
    rng = random.Random(5)
    prompt = small_tokenizer(kind).encode(TEXT)
    vocabulary = range(small_tokenizer(kind).size)

    def drafter(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        rest = answers[(sequence_id - 1) % len(answers)][len(tokens) - len(prompt) :][:10]
        if rng.random() < 0.3:
            return random_tree(rng, 30, vocabulary)
        ends = [*rest, *small_tokenizer(kind).eos_token_ids, rng.choice(vocabulary)]
        return path_tree(ends, decoys=[rng.choice(vocabulary) for _ in ends])

    return FakeDrafts(drafter)


def constraints() -> list[Constraint]:
    """One of each form that is promised."""
    return [
        *(Constraint(Kind.JSON_SCHEMA, (json.dumps(schema),)) for schema in SCHEMAS),
        *(Constraint(Kind.REGEX, (regex,)) for regex in REGEXES),
        *(Constraint(Kind.CHOICES, texts) for texts in CHOICES),
    ]
