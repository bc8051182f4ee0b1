"""A server under test that speaks OpenAI's API: our gateway, with all modes, or any other."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from lookahead.client.errors import ServerError, Unavailable
from lookahead.loadtest.prompts import Prompt
from lookahead.loadtest.target import Mode, Reply, Sampling

TIMEOUT_S = 600.0
MAX_QUOTED_CHARS = 300


class OpenAITarget:
    """Asks over HTTP, streaming; one connection per request, as short-lived clients do."""

    def __init__(self, url: str, sampling: Sampling, *, api_key: str = "", model: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--url: want http://HOST:PORT/v1, got {url!r}")
        self._is_https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._sampling = sampling
        served = self._served()
        self._model = model or str(served.get("id", ""))
        self.has_modes = isinstance(served.get("lookahead"), dict)
        self.name = f"{self._model} at {url}"

    def ask(self, prompt: Prompt, mode: Mode, seed: int) -> Reply:
        """Ask once and read to the end."""
        start = time.perf_counter()
        texts, times = [], []
        last: dict[str, Any] = {}
        for event in self._events(*self._request(prompt, mode, seed)):
            for choice in event["choices"]:
                text = choice.get("text") or (choice.get("delta") or {}).get("content")
                if text:
                    texts.append(text)
                    times.append(time.perf_counter() - start)
            last = event if event.get("usage") else last
        if not last:
            raise ServerError("the stream ended without the usage that was asked for")
        end_s = time.perf_counter() - start
        return Reply(
            "".join(texts),
            last["usage"]["completion_tokens"],
            first_s=times[0] if times else end_s,
            last_s=times[-1] if times else end_s,
            num_steps=last.get("lookahead", {}).get("num_steps"),
        )

    def _request(self, prompt: Prompt, mode: Mode, seed: int) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if mode.name != "as served":
            body["lookahead"] = {
                "mode": mode.speculation,
                "namespace": mode.namespace,
                "learn": mode.learn,
            }
        if prompt.messages:
            return "/chat/completions", {**body, "messages": list(prompt.messages)}
        return "/completions", {**body, "prompt": prompt.text}

    def _served(self) -> dict[str, Any]:
        """Return the first model of the list, which is the one asked unless another is named."""
        with closing(self._connection()) as connection:
            models: dict[str, Any] = json.loads(self._response(connection, "/models", None).read())
        entries: list[dict[str, Any]] = models.get("data", [])
        return entries[0] if entries else {}

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with closing(self._connection()) as connection:
            for line in self._response(connection, path, body):
                data = line.removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or data == b"[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(str(event["error"])[:MAX_QUOTED_CHARS])
                yield event

    def _response(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        method = "GET" if body is None else "POST"
        sent = None if body is None else json.dumps(body)
        try:
            connection.request(method, self._path + path, sent, self._headers)
            response = connection.getresponse()
        except OSError as error:
            raise Unavailable(f"{self._host}:{self._port} does not answer: {error}") from None
        if response.status != http.client.OK:
            said = response.read(MAX_QUOTED_CHARS).decode(errors="replace")
            raise ServerError(f"{method} {self._path}{path}: {response.status} {said}")
        return response

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_https else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=TIMEOUT_S)
