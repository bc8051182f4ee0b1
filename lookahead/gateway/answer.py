"""A request that is being answered: its generations, from their start to the last of them."""

import time
from dataclasses import dataclass, field

from lookahead.client.errors import LookaheadError
from lookahead.gateway.choice import Choice
from lookahead.gateway.concurrency import all_or_none
from lookahead.gateway.errors import ApiError, from_call
from lookahead.gateway.metrics import GatewayMetrics
from lookahead.gateway.request import Caller, GenerationRequest
from lookahead.gateway.tokens.texts import TokenTexts


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. Close it once."""

    request: GenerationRequest
    choices: list[Choice]
    seed: int
    texts: TokenTexts
    caller: Caller
    metrics: GatewayMetrics
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def model(self) -> str:
        """The model that answers."""
        return self.choices[0].generating.started.model

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint."""
        return self.choices[0].generating.started.model_fingerprint

    async def finish(self) -> None:
        """Wait for all choices."""
        await all_or_none(self._read(choice) for choice in self.choices)
        for choice in self.choices:
            if choice.prompt:
                choice.prompt_text = await self._prompt_text(choice)

    def close(self) -> None:
        """Cancel the choices that still run."""
        for choice in self.choices:
            choice.generating.close()
        self.metrics.end_answer(self.caller.arrival, self.choices)

    def explained(self, error: LookaheadError) -> ApiError:
        """Return the error that the client gets for a failed generation."""
        return from_call(error, self.request.field_names)

    async def _prompt_text(self, choice: Choice) -> str:
        prompt = self.request.prompts[choice.index // self.request.n]
        if prompt.WhichOneof("input") == "text":
            return prompt.text
        ids = [token.token_id for token in choice.prompt]
        shown = self.request.template.output.special_tokens
        return await self.texts.of_run(ids, special_tokens=shown)

    async def _read(self, choice: Choice) -> None:
        async for _ in choice.pieces(self.texts):
            pass
        assert choice.finished is not None, "a stream that ends has an end"
