"""A client's program, run in the client's environment."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.clients.environments import environ_of, folder_of
from tests.clients.table import Client

PROGRAM_S = 480
# Nothing is asked of any other host, and nothing is told to one.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program printed, and which checks it said had passed."""

    status: int
    output: str

    @property
    def passed(self) -> tuple[str, ...]:
        """The checks that passed, in their order."""
        lines = self.output.splitlines()
        return tuple(line.removeprefix("passed ") for line in lines if line.startswith("passed "))


def run_program(client: Client, arguments: list[str], home: Path) -> Outcome:
    """Run the client's program, in a home directory of its own."""
    folder = folder_of(client)
    path = client.program_path
    is_script = path.suffix == ".mjs"
    command = ["node", "--input-type=module", "-"] if is_script else ["python", str(path)]
    with path.open() as source:
        done = subprocess.run(
            [*command, *arguments],
            # A program that Node reads from its input finds packages from this folder on.
            cwd=folder if is_script else home,
            stdin=source if is_script else subprocess.DEVNULL,
            env={**environ_of(folder), **QUIET, "HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PROGRAM_S,
        )
    return Outcome(done.returncode, done.stdout)
