"""What clients see of drafting: each step's verified tree, and what the drafts gained."""

import pytest

from lookahead.client.responses import to_run
from protos import verifier_pb2 as pb
from tests.support.models.small_tokenizers import EXACT_KINDS, small_tokenizer
from tests.support.servers.running_verifier import TOKENIZER, copycat, ids_of, no_draft, running

TEXT = "a stitch in time"
STOPPING = pb.Stopping(max_tokens=30, ignore_eos=True)
TREE = pb.Speculation(mode=pb.Speculation.MODE_TREE)


async def plain_ids() -> list[int]:
    async with running(no_draft) as verifier:
        off = pb.Speculation(mode=pb.Speculation.MODE_OFF)
        return ids_of(await verifier.generate(text=TEXT, stopping=STOPPING, speculation=off))


async def drafted(*, draft_trees: bool) -> list[pb.GenerateResponse]:
    propose = copycat(TOKENIZER.encode(TEXT) + await plain_ids())
    async with running(propose) as verifier:
        return await verifier.generate(
            text=TEXT,
            stopping=STOPPING,
            speculation=TREE,
            output=pb.Output(draft_trees=draft_trees),
        )


async def test_each_step_shows_the_tree_it_verified_and_what_of_it_was_emitted() -> None:
    events = await drafted(draft_trees=True)
    runs = [to_run(event.tokens) for event in events[1:-1]]
    trees = [run.draft_tree for run in runs if run.draft_tree is not None]
    assert sum(len(tree.token_ids) for tree in trees) == (
        events[-1].finished.speculation.num_draft_tokens
    )
    for run in runs:
        tree = run.draft_tree
        if tree is None:
            assert run.num_drafted == 0
            continue
        assert len(tree.accepted) == run.num_drafted
        assert tuple(tree.token_ids[i] for i in tree.accepted) == run.token_ids[: run.num_drafted]
        assert [tree.parents[i] for i in tree.accepted] == [-1, *tree.accepted][: run.num_drafted]
        assert tree.texts == tuple(map(TOKENIZER.token_text, tree.token_ids))
        assert tree.probabilities == pytest.approx([0.9] * len(tree.token_ids))
        assert set(tree.sources) == {"namespace"}
    assert max(len(tree.accepted) for tree in trees) > 1


async def test_trees_are_not_sent_unless_asked_for() -> None:
    events = await drafted(draft_trees=False)
    assert not any(event.tokens.HasField("draft_tree") for event in events)


@pytest.mark.parametrize("kind", EXACT_KINDS)
def test_a_tokens_own_text_is_what_it_adds_to_a_text(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = tokenizer.encode("the lazy dog", special_tokens=False)
    whole = tokenizer.decode([ids[0], *ids])
    assert "".join([tokenizer.decode(ids[:1]), *map(tokenizer.token_text, ids)]) == whole
    eos = next(iter(tokenizer.eos_token_ids))
    assert tokenizer.token_text(eos).strip() == "</s>"
