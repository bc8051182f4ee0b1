"""The kernels of a GPU: right in Triton's interpreter, and compiled for cards without spills.

Neither needs a GPU. Triton comes with torch for GPUs, and else with the extra `gpu-tests`.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("triton") is None,
        reason="Triton is not installed (extra gpu-tests): no kernel of a GPU is tried",
    ),
]
CARDS = (80, 90, 100)
MAX_SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}


def run(*command: str, interprets: bool) -> str:
    environ = os.environ | {"TRITON_INTERPRET": str(int(interprets))}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_the_kernels_are_right_in_the_interpreter() -> None:
    said = run("pytest", "-q", "-x", "tests/verifier/kernels/tiled_cases.py", interprets=True)
    found = re.search(r"(\d+) passed", said)
    assert found and int(found[1]) > 10, said


@pytest.mark.timeout(600)
@pytest.mark.parametrize("card", CARDS)
def test_the_kernels_compile_for_a_card_and_spill_nothing(card: int) -> None:
    lines = run("tests.support.models.gpu_compile", str(card), "few", interprets=False).splitlines()
    assert len(lines) > 10
    for line in lines:
        spilled, shared = map(int, re.findall(r"(?:spilled|shared)=(\d+)", line))
        assert spilled == 0, line
        assert shared <= MAX_SHARED[card], line
