"""What a DraftRequest asks, checked field by field; openings have their tokens indexed."""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drafter.api.turn_budget import TOKENS_PER_TURN, TurnBudget
from drafter.api.validation import (
    MAX_NODES,
    MAX_OBSERVED_TOKENS,
    MAX_PREDICTION_TOKENS,
    MAX_RUN_TOKENS,
    MAX_SUCCESSORS,
    checked_number,
    checked_run,
    checked_space,
    checked_token_ids,
)
from drafter.drafting.session import Prepared, prepare
from drafter.trie.token_run import TokenRun
from protos import drafter_pb2 as pb
from rpc.contract import Learn
from rpc.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Opening:
    """A sequence to begin."""

    sequence_id: int
    space: str
    learn: Learn
    num_tokens: int
    num_indexed: int  # num_tokens and the prediction
    prepared: Prepared
    max_nodes: int
    traceparent: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a sequence emitted."""

    sequence_id: int
    token_ids: TokenRun
    num_verified: int
    successors: NDArray[np.int32]  # [tokens, successors per token]
    max_nodes: int


async def checked_opening(message: pb.Open, path: str, turn: TurnBudget) -> Opening:
    """Check one Open and index its tokens; long ones in a thread."""
    space = checked_space(message.vocabulary, message.namespace, path)
    num_tokens = len(message.token_ids)
    if num_tokens == 0:
        raise InvalidRequest.at(path + "token_ids", "must hold at least one id")
    num_prompt = checked_number(message.num_prompt_tokens, path + "num_prompt_tokens", num_tokens)
    if int(message.learn) not in {0, *Learn}:  # 0 takes the default
        raise InvalidRequest.at(path + "learn", "is not a Learn", message.learn)
    checked_number(message.max_nodes, path + "max_nodes", MAX_NODES)
    token_ids = await checked_run(message.token_ids, path + "token_ids", MAX_RUN_TOKENS, turn)
    prediction = await checked_run(
        message.prediction, path + "prediction", MAX_PREDICTION_TOKENS, turn
    )
    num_indexed = num_tokens + len(prediction)
    if num_indexed <= TOKENS_PER_TURN:
        prepared = prepare(token_ids, prediction=prediction, num_prompt=num_prompt)
        await turn.spend(num_indexed)
    else:
        prepared = await asyncio.to_thread(
            prepare, token_ids, prediction=prediction, num_prompt=num_prompt
        )
    return Opening(
        sequence_id=message.sequence_id,
        space=space,
        learn=Learn(message.learn or Learn.ALL),
        num_tokens=num_tokens,
        num_indexed=num_indexed,
        prepared=prepared,
        max_nodes=message.max_nodes,
        traceparent=message.traceparent,
    )


def checked_observation(message: pb.Observe, path: str) -> Observation:
    """Check one Observe."""
    token_ids = checked_token_ids(message.token_ids, path + "token_ids", MAX_OBSERVED_TOKENS)
    width = checked_number(
        message.successors_per_token, path + "successors_per_token", MAX_SUCCESSORS
    )
    num_successors = len(token_ids) * width
    if len(message.successors) not in (0, num_successors):
        problem = f"must be empty or hold {len(token_ids)} x {width} ids"
        raise InvalidRequest.at(path + "successors", problem, len(message.successors))
    rows = checked_token_ids(message.successors, path + "successors", num_successors)
    return Observation(
        sequence_id=message.sequence_id,
        token_ids=token_ids,
        num_verified=message.num_verified,
        successors=rows.reshape(-1, width) if len(rows) else rows,
        max_nodes=checked_number(message.max_nodes, path + "max_nodes", MAX_NODES),
    )
