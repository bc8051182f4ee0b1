"""Recorded requests to replay: prompt and output token ids, one gzipped JSONL file per workload."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, slots=True)
class Request:
    """One recorded request, as the target model answered it."""

    request_id: str
    prompt: list[int]
    output: list[int]


def workloads(directory: Path) -> list[str]:
    """Name the workloads recorded in a directory."""
    names = sorted(path.name.removesuffix(SUFFIX) for path in directory.glob(f"*{SUFFIX}"))
    if not names:
        raise ValueError(f"traces: no *{SUFFIX} file in {directory}")
    return names


def load(directory: Path, workload: str, limit: int | None = None) -> list[Request]:
    """Read one workload's requests in their order, at most `limit` of them."""
    path = directory / f"{workload}{SUFFIX}"
    if not path.is_file():
        raise ValueError(f"workload: {workload!r} is not recorded in {directory}")
    requests: list[Request] = []
    for request in _lines(path):
        if limit is not None and len(requests) >= limit:
            break
        requests.append(request)
    return requests


def compact(requests: list[Request]) -> tuple[list[Request], int]:
    """The requests with ids from 0 on, and how many ids there are: a small output layer will do."""
    ids = {token for r in requests for token in (*r.prompt, *r.output)}
    index = {token: i for i, token in enumerate(sorted(ids))}
    mapped = [
        replace(r, prompt=[index[t] for t in r.prompt], output=[index[t] for t in r.output])
        for r in requests
    ]
    return mapped, len(index)


def _lines(path: Path) -> Iterator[Request]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield _request(line, f"{path.name}:{number}")


def _request(line: str, place: str) -> Request:
    try:
        record = json.loads(line)
        request = Request(str(record["id"]), list(record["prompt"]), list(record["output"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: not a recorded request: {error!r}") from error
    if not request.prompt or not request.output:
        raise ValueError(f"{place}: prompt and output must hold at least one token each")
    return request
