"""What each route does."""

import re
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from lookahead.client.errors import LookaheadError
from lookahead.gateway.answerer import Answerer
from lookahead.gateway.body import Kind, Validated, parse, read_body, validated
from lookahead.gateway.chat.schema import ChatRequest
from lookahead.gateway.chat.translation import chat_format, chat_generation, chat_messages
from lookahead.gateway.completions.schema import CompletionRequest
from lookahead.gateway.completions.translation import completion_format, completion_generation
from lookahead.gateway.concurrency import aside, unless_gone
from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.errors import from_call
from lookahead.gateway.messages.format import MessagesFormat
from lookahead.gateway.messages.schema import CountRequest, MessagesRequest
from lookahead.gateway.messages.translation import FIELD_NAMES as MESSAGE_FIELDS
from lookahead.gateway.messages.translation import conversation, messages_generation
from lookahead.gateway.metrics import GatewayMetrics
from lookahead.gateway.request import Caller, FieldName, GenerationRequest
from lookahead.gateway.responses.format import ResponsesFormat
from lookahead.gateway.responses.schema import ResponsesRequest
from lookahead.gateway.responses.translation import responses_generation
from lookahead.gateway.streams.format import Format
from lookahead.gateway.streams.sse import Abort, EventStream
from lookahead.gateway.tokens.schema import DetokenizeRequest, TokenizeRequest
from lookahead.gateway.tolerance import ignored_header
from lookahead.gateway.verifiers import Verifiers
from protos import verifier_pb2 as pb

TOKENS = (FieldName(re.compile(r"^token_ids"), "tokens"),)
READY_TIMEOUT_S = 0.8
# What takes more than some milliseconds to read or to write.
BIG_BODY_BYTES = 1 << 15
BIG_LOGPROBS = 64  # tokens, each with its alternatives
VIEW = Path(__file__).parent.parent / "view"  # the page and what it loads
PROMPTS = VIEW.parent / "prompts"  # its samples
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class Routes:
    """The routes of one gateway."""

    def __init__(
        self, config: GatewayConfig, verifiers: Verifiers, metrics: GatewayMetrics, abort: Abort
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._abort = abort
        self._verifiers = verifiers
        self._answerer = Answerer(
            verifiers,
            metrics,
            max_choices=config.max_choices,
            timeout_s=config.request_timeout_s,
        )
        self._may_see_drafts = config.allows_draft_trees
        self._started = int(time.time())

    def table(self) -> list[BaseRoute]:
        """List the routes."""
        apis = {
            "/completions": self.completions,
            "/chat/completions": self.chat,
            "/responses": self.responses,
            "/messages": self.messages,
            "/messages/count_tokens": self.count_tokens,
        }
        # Some clients take a base URL without /v1.
        bare = ("/completions", "/chat/completions", "/responses")
        return [
            Route("/", self.page, methods=["GET"]),
            Mount("/view/prompts", StaticFiles(directory=PROMPTS)),
            Mount("/view", StaticFiles(directory=VIEW)),
            *(Route(f"/v1{path}", answer, methods=["POST"]) for path, answer in apis.items()),
            *(Route(path, apis[path], methods=["POST"]) for path in bare),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        found = await self._read(CompletionRequest, request)
        wanted = completion_generation(found.request, self._caller(request), found.ignored)
        return await self._answer(request, wanted, completion_format(found.request))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        found = await self._read(ChatRequest, request)
        wanted = chat_generation(found.request, self._caller(request), found.ignored)
        return await self._answer(request, wanted, chat_format(found.request))

    async def responses(self, request: Request) -> Response:
        """Answer a conversation, as OpenAI's newer API has it."""
        found = await self._read(ResponsesRequest, request)
        wanted = responses_generation(found.request, self._caller(request), found.ignored)
        return await self._answer(request, wanted, ResponsesFormat(found.request))

    async def messages(self, request: Request) -> Response:
        """Answer a conversation, as Anthropic's API has it."""
        found = await self._read(MessagesRequest, request)
        wanted = messages_generation(found.request, self._caller(request), found.ignored)
        return await self._answer(request, wanted, MessagesFormat())

    async def count_tokens(self, request: Request) -> Response:
        """Return how many tokens a conversation takes."""
        wanted = (await self._read(CountRequest, request)).request
        await self._answerer.check_chat(wanted.model)
        call = pb.TokenizeRequest(chat=conversation(wanted))
        try:
            ids = (await self._verifiers.tokenize(call)).token_ids
        except LookaheadError as error:
            raise from_call(error, MESSAGE_FIELDS) from None
        return JSONResponse({"input_tokens": len(ids)})

    async def models(self, request: Request) -> Response:
        """List the one model."""
        model = await self._answerer.check_model(None)
        return JSONResponse({"object": "list", "data": [self._describe(model)]})

    async def model(self, request: Request) -> Response:
        """Describe the model, if that is its name."""
        model = await self._answerer.check_model(request.path_params["name"])
        return JSONResponse(self._describe(model))

    async def tokenize(self, request: Request) -> Response:
        """Return the ids of a text or a conversation."""
        wanted = (await self._read(TokenizeRequest, request)).request
        model = await self._answerer.check_model(wanted.model)
        call = pb.TokenizeRequest(without_special_tokens=not wanted.add_special_tokens)
        if wanted.messages is not None:
            call.chat.CopyFrom(chat_messages(wanted.messages))
        else:
            call.text = wanted.prompt or ""
        try:
            ids = list((await self._verifiers.tokenize(call)).token_ids)
        except LookaheadError as error:
            raise from_call(error) from None
        found = {"tokens": ids, "count": len(ids), "max_model_len": model.max_context_len}
        return JSONResponse(found)

    async def detokenize(self, request: Request) -> Response:
        """Return the text of ids."""
        wanted = (await self._read(DetokenizeRequest, request)).request
        await self._answerer.check_model(wanted.model)
        call = pb.DetokenizeRequest(
            token_ids=wanted.tokens, special_tokens=not wanted.skip_special_tokens
        )
        try:
            text = (await self._verifiers.detokenize(call)).text
        except LookaheadError as error:
            raise from_call(error, TOKENS) from None
        return JSONResponse({"prompt": text})

    async def health(self, request: Request) -> Response:
        """Say that this process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Say whether a verifier would answer; 503 with the reason if not."""
        try:
            await self._verifiers.check(READY_TIMEOUT_S)
        except LookaheadError as error:
            raise from_call(error) from None
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Answer a scrape."""
        page = self._metrics.page(request.headers.get("accept", ""))
        return Response(page.body, headers={"content-type": page.content_type})

    async def page(self, request: Request) -> Response:
        """Show the live view."""
        return FileResponse(VIEW / "index.html", headers=PAGE_HEADERS)

    async def _read(self, kind: type[Kind], request: Request) -> Validated[Kind]:
        config = self._config
        body = await read_body(
            request, max_bytes=config.max_body_bytes, timeout_s=config.read_timeout_s
        )
        ignores_unknown = config.unknown_fields == "ignore"
        return await aside(
            lambda: validated(kind, parse(body), ignores_unknown=ignores_unknown),
            is_big=len(body) > BIG_BODY_BYTES,
        )

    def _caller(self, request: Request) -> Caller:
        return Caller(
            request_id=request.state.request_id,
            arrival=request.state.arrival,
            namespace=request.state.namespace,
            may_see_drafts=self._may_see_drafts,
        )

    async def _answer(self, request: Request, wanted: GenerationRequest, form: Format) -> Response:
        starting = self._answerer.start(wanted, self._caller(request))
        answer = await unless_gone(request.receive, starting)
        if wanted.stream:
            timeout_s = self._config.write_timeout_s
            stream = form.stream(answer)
            return EventStream(
                answer,
                stream,
                write_timeout_s=timeout_s,
                keep_alive_s=self._config.keep_alive_s,
                block_bytes=self._config.event_block_bytes,
                abort=self._abort,
            )
        try:
            await unless_gone(request.receive, answer.finish())
            headers = ignored_header(wanted.ignored)
            num_logprobs = sum(len(c.logprobs) + len(c.prompt) for c in answer.choices)
            return await aside(
                lambda: JSONResponse(form.body(answer), headers=headers),
                is_big=num_logprobs > BIG_LOGPROBS,
            )
        except LookaheadError as error:
            raise answer.explained(error) from None
        finally:
            answer.close()

    def _describe(self, model: pb.GetModelResponse) -> dict[str, Any]:
        verification = pb.GetModelResponse.Verification.Name(model.verification)
        return {
            "id": model.model,
            "object": "model",
            "created": self._started,
            "owned_by": "lookahead",
            "max_model_len": model.max_context_len,
            "lookahead": {
                "architecture": model.architecture,
                "vocabulary_size": model.vocabulary_size,
                "device": model.device,
                "has_chat_template": model.has_chat_template,
                "has_reasoning": model.has_reasoning,
                "tool_format": model.tool_format or None,
                "verification": verification.removeprefix("VERIFICATION_").lower(),
                "verification_reason": model.verification_reason,
                "max_nodes": model.max_nodes,
                "drafter_connected": model.drafter_connected,
                "bitwise": model.bitwise,
                "not_bitwise_reason": model.not_bitwise_reason,
                "attention": model.attention,
                "launch": model.launch,
                "launch_reason": model.launch_reason,
                "limits": {**dict(sorted(model.limits.items())), **self._config.limits()},
            },
        }
