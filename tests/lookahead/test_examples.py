"""Every example runs, as a user would run it, against the stack that `lookahead serve` starts."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bench.topologies.server import free_port
from lookahead.stack.stack import NO_REDIS, StackConfig, running
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.usefixtures("compiled_kernels")]

EXAMPLES = ROOT / "examples"
TIMEOUT_S = 90.0
# Patterns of what each must say; the small model's own words are noise.
EXPECTED = {
    "python_client.py": ["tokens per step", "the same words without drafts: True"],
    "openai_client.py": [
        "^0: ",
        "^1: ",
        r"\d+ tokens in \d+ steps",
        "^refused: temperature: must be",
    ],
    "grpc_call.sh": ['"started"', '"tokens"', '"finished"', '"numOutputTokens": 8'],
    "warm_up.sh": [r"^learned [1-9]\d* tokens into examples$"],
    "structured_output.py": [r"^(low|medium|high) (True|False) \d{1,2}$"],
    "predicted_output.py": ["steps with the prediction", "the same text: True"],
}


@pytest.fixture(scope="module")
def environ(saved_model: Path) -> Iterator[dict[str, str]]:
    with TemporaryDirectory(prefix="la-") as name:
        directory = Path(name)
        verifier, drafter, gateway = (f"127.0.0.1:{free_port()}" for _ in range(3))
        environ = {**os.environ, "XDG_CACHE_HOME": name, "LOOKAHEAD_VERIFIER_THREADS": "1"}
        config = StackConfig(
            model=str(saved_model),
            directory=directory,
            redis_dir=directory / "redis",
            verifier_address=verifier,
            drafter_address=drafter,
            gateway_address=gateway,
            redis=NO_REDIS,
            environ=environ,
        )
        with running(config):
            yield {
                **environ,
                "LOOKAHEAD_URL": f"http://{gateway}",
                "LOOKAHEAD_ADDRESS": verifier,
                "LOOKAHEAD_DRAFTER": drafter,
                "PATH": f"{sysconfig.get_path('scripts')}:{environ['PATH']}",
            }


def run(path: Path, environ: dict[str, str]) -> str:
    interpreter = ["bash"] if path.suffix == ".sh" else [sys.executable, "-W", "error"]
    done = subprocess.run(
        [*interpreter, str(path)], env=environ, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs_and_says_what_it_promises(name: str, environ: dict[str, str]) -> None:
    said = run(EXAMPLES / name, environ)
    missing = [word for word in EXPECTED[name] if not re.search(word, said, re.MULTILINE)]
    assert missing == [], said


def test_every_example_is_run_and_listed() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    assert files == set(EXPECTED)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"({name})" in listed for name in files)
