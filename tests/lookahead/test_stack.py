"""The local stack as real processes: it answers, it reports deaths, it leaves nothing behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from bench.topologies.server import free_port, wait_until
from lookahead import Client
from lookahead.client import DrafterClient
from lookahead.client.errors import Unavailable
from lookahead.stack.child import ChildProcess
from lookahead.stack.stack import NO_REDIS, Stack, StackConfig, StackError
from lookahead.stack.supervisor import Supervisor
from tests.support.waiting import read_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_kernels")]

STOP_S = 20.0
BACK_S = 60.0
PROMPT = "the quick brown fox jumps over the lazy dog, then it sleeps. " * 3


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    with TemporaryDirectory(prefix="la-") as path:
        yield Path(path)


def make_config(directory: Path, model: str, **changes: str) -> StackConfig:
    fields = {
        "verifier_address": f"unix:{directory}/v.sock",
        "drafter_address": f"unix:{directory}/d.sock",
        "redis": NO_REDIS,
        **changes,
    }
    return StackConfig(
        model=model,
        directory=directory,
        redis_dir=directory / "redis",
        environ={**os.environ, "LOOKAHEAD_VERIFIER_THREADS": "1"},
        **fields,
    )


def test_serve_answers_and_ends_on_interrupt_with_all_its_processes(
    saved_model: Path, directory: Path
) -> None:
    port, drafter_port, http_port = free_port(), free_port(), free_port()
    ports = ["--port", port, "--drafter-port", drafter_port, "--http-port", http_port]
    arguments = ["--model", str(saved_model), "--metrics-port", "0", *map(str, ports)]
    serve = subprocess.Popen(
        [sys.executable, "-c", "from lookahead.cli import main; main()", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(directory), "LOOKAHEAD_VERIFIER_THREADS": "1"},
    )
    assert serve.stdout is not None
    output = read_until(serve, "Ready")
    assert re.search(r"✓ memory.*✓ drafter.*✓ verifier.*✓ gateway", output, re.DOTALL)
    children = psutil.Process(serve.pid).children(recursive=True)
    assert len(children) == 5  # Redis, what watches over it, drafter, verifier, gateway
    with Client(f"127.0.0.1:{port}") as client:
        assert client.model().drafter_connected
        texts = [
            client.generate(PROMPT, max_tokens=24, speculation=mode).wait().text
            for mode in ("off", "tree")
        ]
    assert texts[0] == texts[1] != ""
    serve.send_signal(signal.SIGINT)
    assert serve.wait(STOP_S) == 0
    serve.stdout.close()
    assert not psutil.wait_procs(children, STOP_S)[1]


def is_back(stack: Stack, supervisor: Supervisor, name: str, old_pid: int) -> bool:
    supervisor.look()
    return stack.children[name].pid != old_pid


def num_learned(client: Client, drafter: DrafterClient) -> int:
    """How many tokens the drafter knows, asked to draft and taught nothing; 0 while it starts."""
    client.generate(PROMPT, max_tokens=24, learn="none").wait()
    try:
        return sum(namespace.num_tokens for namespace in drafter.namespaces())
    except Unavailable:
        return 0


def test_processes_that_are_killed_come_back_with_the_memory(
    saved_model: Path, directory: Path
) -> None:
    told: list[str] = []
    stack = Stack(make_config(directory, str(saved_model), redis=""))
    try:
        stack.start()
        supervisor = stack.supervisor(told.append)
        server = next(
            child
            for child in psutil.Process(stack.children["redis"].pid).children(recursive=True)
            if child.pid != stack.children["redis"].pid
        )
        with (
            Client(stack.config.verifier_address) as client,
            DrafterClient(stack.config.drafter_address) as drafter,
        ):
            text = client.generate(PROMPT, max_tokens=24).wait().text
            wait_until(lambda: num_learned(client, drafter) > 0, BACK_S)
            for name, victim in (
                ("drafter", psutil.Process(stack.children["drafter"].pid)),
                ("redis", server),
            ):
                victim.kill()
                old_pid = stack.children[name].pid
                wait_until(partial(is_back, stack, supervisor, name, old_pid), BACK_S)
                again = client.generate(PROMPT, max_tokens=24, learn="none").wait()
                assert again.text == text
                wait_until(lambda: num_learned(client, drafter) > 0, BACK_S)
        assert [line.split()[1] for line in told] == ["drafter", "redis"]
    finally:
        stack.stop()
    assert not server.is_running()


def test_a_process_that_dies_at_the_start_is_reported_with_its_log_and_ends_the_stack(
    directory: Path,
) -> None:
    stack = Stack(make_config(directory, str(directory / "no-such-model")))
    with pytest.raises(StackError, match=r"verifier process ended(.|\n)*no-such-model"):
        stack.start()
    drafter = psutil.Process(stack.children["drafter"].pid)
    stack.stop()
    assert not drafter.is_running()


@pytest.mark.parametrize("redis", ["", NO_REDIS])
def test_a_full_disk_is_named_before_anything_starts(
    directory: Path, redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(directory)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    stack = Stack(make_config(directory, "any", redis=redis))
    with pytest.raises(StackError, match=f"the disk of {directory} is full: 1 MiB are free"):
        stack.start()
    assert not stack.children


def test_an_address_in_use_is_refused_before_anything_starts(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        stack = Stack(make_config(directory, "any", verifier_address=address))
        with pytest.raises(StackError, match=address):
            stack.start()
    assert not stack.children


def test_one_address_for_two_processes_is_refused_by_their_names(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
    config = make_config(directory, "any", verifier_address=address, drafter_address=address)
    with pytest.raises(StackError, match=f"verifier: {address} is the drafter's already"):
        Stack(config).start()


@pytest.mark.parametrize("address", ["127.0.0.1:port", "nowhere", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(directory: Path, address: str) -> None:
    with pytest.raises(StackError, match=address):
        Stack(make_config(directory, "any", drafter_address=address)).start()


def test_no_process_survives_a_parent_that_is_killed(directory: Path) -> None:
    script = (
        "import os, pathlib, sys, time\n"
        "from lookahead.stack.child import ChildProcess\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "module = 'lookahead.stack.private_redis'\n"
        "command = [module, str(here / 'redis'), str(here / 'redis.url')]\n"
        "child = ChildProcess('redis', command, log_path=here / 'log', environ=os.environ)\n"
        "while not (here / 'redis.url').exists(): time.sleep(0.01)\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    read_until(parent, "started")
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.kill()
    parent.wait(STOP_S)
    parent.stdout.close()
    assert not psutil.wait_procs(children, STOP_S)[1]


def test_a_child_that_ignores_the_request_to_stop_is_made_to(directory: Path) -> None:
    (directory / "stubborn.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(600)\n"
    )
    log_path = directory / "log"
    environ = {**os.environ, "PYTHONPATH": str(directory)}
    child = ChildProcess("stubborn", ["stubborn"], log_path=log_path, environ=environ)
    process = psutil.Process(child.pid)
    while "deaf" not in child.log_tail():
        assert child.status is None
    child.stop(timeout_s=0.1)
    assert child.status == -signal.SIGKILL
    assert not process.is_running()
