"""Python clients of a verifier and a drafter, with their results and errors."""

from lookahead.client.async_client import AsyncClient
from lookahead.client.client import Client
from lookahead.client.drafter_client import DrafterClient, NamespaceInfo
from lookahead.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    LookaheadError,
    ResourceExhausted,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from lookahead.client.results import (
    DraftTree,
    FinishReason,
    GenerationResult,
    MessagePart,
    ModelInfo,
    Source,
    SpeculationSummary,
    Started,
    Timings,
    TokenLogprob,
    TokenLogprobs,
    TokenRun,
    ToolCall,
    Usage,
)
from lookahead.client.stream import AsyncStream, Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "DraftTree",
    "DrafterClient",
    "FailedPrecondition",
    "FinishReason",
    "GenerationResult",
    "InvalidRequest",
    "LookaheadError",
    "MessagePart",
    "ModelInfo",
    "NamespaceInfo",
    "ResourceExhausted",
    "ServerError",
    "Source",
    "SpeculationSummary",
    "Started",
    "Stream",
    "Timings",
    "TokenLogprob",
    "TokenLogprobs",
    "TokenRun",
    "ToolCall",
    "Unauthenticated",
    "Unavailable",
    "Usage",
]
