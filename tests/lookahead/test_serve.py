"""What `lookahead serve` shows while the stack starts, asked of the verifier's health service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from lookahead.stack.serve import StartUp
from lookahead.stack.stack import StackConfig
from rpc.contract import StartupPart
from rpc.server import RpcServer
from tests.support.servers.running_gateway import host


@asynccontextmanager
async def loading(address: str) -> AsyncIterator[RpcServer]:
    """Bind as a verifier does before it loads."""
    server = RpcServer([])
    await server.start(address)
    try:
        yield server
    finally:
        await server.stop()


def test_the_phases_of_the_verifiers_start_are_shown_as_it_reaches_them() -> None:
    with TemporaryDirectory(prefix="la-") as directory, host() as loop:
        config = StackConfig.apart("models/tiny", Path(directory), environ={})
        start_up = StartUp(Console(), config)

        def shown() -> tuple[float, str]:
            start_up.report("verifier", False)
            [task] = start_up.progress.tasks
            return task.completed, task.fields["detail"]

        assert shown() == (0, "tiny: starting")
        with loop.holding(loading(config.verifier_address)) as server:
            assert shown() == (1, "tiny: loading the weights")
            loop.run(server.set_health(StartupPart.WEIGHTS, serving=True))
            assert shown() == (2, "tiny: finding how drafts can be verified")
            # Two parts may come between two looks.
            loop.run(server.set_health(StartupPart.FORM, serving=True))
            loop.run(server.set_health(StartupPart.STEP_TIMES, serving=True))
            assert shown() == (4, "tiny: warming up")
            assert shown() == (4, "tiny: warming up")
            start_up.report("verifier", True)
            [task] = start_up.progress.tasks
            assert task.finished
            assert task.fields["detail"] == f"tiny on {config.verifier_address}"
