"""GuideLLM, the load generator of vLLM's project, by its command."""

import json
import subprocess
from pathlib import Path

from checks import KEY, MODEL, MODEL_FOLDER, URL, check, run

NUM_REQUESTS, OUTPUT_TOKENS = 3, 16


def options(**fields: object) -> str:
    """Write settings as the command takes them."""
    return ",".join(f"{name}={value}" for name, value in fields.items())


def benchmark(path: str) -> dict:
    """Send requests one after another; return what was measured."""
    report = Path("report.json")
    settings = {
        "backend": options(
            kind="openai_http", target=URL, model=MODEL, request_format=path, api_key=KEY
        ),
        "profile": options(kind="synchronous"),
        "constraint": options(kind="max_requests", count=NUM_REQUESTS),
        "tokenizer": options(kind="hf_auto", model=MODEL_FOLDER),
        "data": options(kind="synthetic_text", prompt_tokens=32, output_tokens=OUTPUT_TOKENS),
        "output": options(kind="json", path=report),
    }
    done = subprocess.run(
        ["guidellm", "run", "--disable-console", *(f"--{k}={v}" for k, v in settings.items())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (found,) = json.loads(report.read_text())["benchmarks"]
    return found


def assert_measured(path: str) -> None:
    requests = benchmark(path)["requests"]
    assert len(requests["successful"]) == NUM_REQUESTS, requests
    counts = [request["output_tokens"] for request in requests["successful"]]
    assert counts == [OUTPUT_TOKENS] * NUM_REQUESTS, counts


@check("chat")
def chat() -> None:
    assert_measured("/v1/chat/completions")


@check("completions")
def completions() -> None:
    assert_measured("/v1/completions")


run()
