"""The compose stack as its user runs it, on the real demo model, and with things going wrong.

In order: a start takes a minute or more, so the stack comes up twice only. Each test leaves it
whole, until one stops the verifier and the next brings everything up anew, with TLS.
`make deploy-test` runs it.
"""

import json
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lookahead import Client
from lookahead.client.errors import Unavailable
from lookahead.client.results import GenerationResult
from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import resolve_model
from lookahead.terminal.samples import load_samples
from rpc.tls import TlsFiles
from tests.support.deploy.compose import PROJECT, ComposeStack, build, health, logs, wait_for
from tests.support.deploy.engine import (
    DOCKER,
    REDIS_IMAGE,
    build_arguments,
    docker,
    running_engine,
)
from tests.support.deploy.manifests import BIN
from tests.support.models.reference import generate_to_its_end
from tests.support.servers.certificates import Authority

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]

TARGETS = ("drafter", "gateway", "verifier")
DOCUMENT = load_samples()[0].text
STORY = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals"
SOON_S = 180.0  # that something happens, on a slow machine whose cores are busy, too
# Until drafts are used. A verifier that gains nothing by them, on a busy machine, pauses them for
# hundreds of steps, in every mode.
DRAFTS_S = 900.0
# Long enough for a fault in the middle; sampled, so that nothing repeats by itself.
LONG: dict[str, Any] = {"max_tokens": 64, "temperature": 1.0, "seed": 7}
# Drafts all that is known.
WARM: dict[str, Any] = {**LONG, "speculation": "tree"}
MEMORY = "outlives"  # a namespace


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    with running_engine():
        yield


@pytest.fixture(scope="module")
def images(engine: None) -> None:
    arguments = build_arguments()
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(build, target, *arguments) for target in TARGETS]:
            done.result()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that containers can read: the demo model."""
    converted = Path(resolve_model(DEMO, Console(quiet=True)))
    model = tmp_path_factory.mktemp("models") / converted.name
    shutil.copytree(converted, model, copy_function=shutil.copyfile)
    model.parent.chmod(0o755)
    return model


@pytest.fixture(scope="module")
def hf(model: Path) -> PreTrainedModel:
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return hf.eval()


@pytest.fixture(scope="module")
def stack(images: None, model: Path) -> Iterator[ComposeStack]:
    stack = ComposeStack(model)
    stack.down(forget=True)  # what a run that was killed left
    try:
        stack.up()
        yield stack
    finally:
        stack.down(forget=True)


@pytest.fixture(scope="module")
def taught(stack: ComposeStack) -> GenerationResult:
    """What MEMORY learned from; Redis holds it."""
    with Client(stack.grpc_address) as client:
        words = client.generate(STORY, **WARM, namespace=MEMORY).wait()
        vocabulary = client.model().vocabulary_fingerprint
    wait_for(lambda: _tokens_in_redis(stack, vocabulary, MEMORY) > 40, SOON_S)
    return words


@pytest.fixture(scope="module")
def secure(
    stack: ComposeStack,
    taught: GenerationResult,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ComposeStack, TlsFiles]]:
    """All containers anew, with TLS, over the volumes of those before; and a client's files."""
    certs = tmp_path_factory.mktemp("certs")
    tls = Authority(certs).sign("tls", "redis", "drafter", "verifier", "localhost")
    for path in (certs, *certs.iterdir()):
        path.chmod(0o755)  # containers read them as other users
    stack.down()
    secure = ComposeStack(model, certs=certs)
    try:
        secure.up()
        yield secure, tls
    finally:
        secure.down()


@pytest.fixture
def client(stack: ComposeStack) -> Iterator[Client]:
    with Client(stack.grpc_address) as client:
        yield client


def post(stack: ComposeStack, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://{stack.http_address}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def during(client: Client, act: Callable[[], None], **params: Any) -> GenerationResult:
    """Generate, and act once the first words are there."""
    with client.generate(STORY, **{**LONG, **params}) as stream:
        deltas = iter(stream)
        next(deltas)
        act()
        for _ in deltas:
            pass
        return stream.result


def test_the_drafter_image_is_small(images: None) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", "lookahead-drafter"))
    assert size <= 450e6


def test_containers_run_as_nobody_on_a_root_they_cannot_write_to(stack: ComposeStack) -> None:
    for service in ("drafter", "verifier", "gateway"):
        assert stack.execute(service, "id", "-u").strip() == "10001"
        attempt = (
            "touch /opt/venv/x /usr/x /x 2>/dev/null; ls /x /usr/x /opt/venv/x 2>/dev/null; true"
        )
        assert stack.execute(service, "sh", "-c", attempt).strip() == "", service


def test_the_drafter_starts_with_its_kernels_compiled(stack: ComposeStack) -> None:
    (first, _) = stack.containers("drafter")
    times = [line for line in logs(first).splitlines() if "listening" in line or "serving" in line]
    listening, serving = (line.split()[0].removeprefix("time=") for line in times[:2])
    counted = stack.execute("drafter", "sh", "-c", "find /opt/numba -name '*.nbc' | wc -l")
    copied = stack.execute(
        "drafter", "sh", "-c", "find /var/cache/lookahead/numba -name '*.nbc' | wc -l"
    )
    assert int(counted) == int(copied) > 0, (listening, serving)


def test_generate_through_the_port_gives_the_words_of_the_model(
    client: Client, hf: PreTrainedModel
) -> None:
    expected = generate_to_its_end(hf, client.tokenize(DOCUMENT), num_tokens=64)
    assert list(client.generate(DOCUMENT, max_tokens=64).wait().token_ids) == expected

    def drafts() -> bool:
        result = client.generate(DOCUMENT, max_tokens=64, speculation="tree").wait()
        assert list(result.token_ids) == expected
        return result.speculation.num_accepted_tokens >= 20

    wait_for(drafts, DRAFTS_S)


def test_a_chat_completion_gives_the_words_of_the_model(
    stack: ComposeStack, hf: PreTrainedModel, model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    messages = [{"role": "user", "content": f"{DOCUMENT}\nName three colours."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    body = {"model": model.name, "messages": messages, "max_tokens": 40, "temperature": 0}
    (choice,) = post(stack, "/v1/chat/completions", body)["choices"]
    expected = tokenizer.decode(
        generate_to_its_end(hf, prompt, num_tokens=40), skip_special_tokens=True
    )
    assert choice["message"]["content"] == expected
    assert len(expected) > 20


def test_http_says_what_grpc_says(stack: ComposeStack, client: Client, model: Path) -> None:
    body = {"model": model.name, "max_tokens": 40, "temperature": 0, "prompt": DOCUMENT}
    answer = post(stack, "/v1/completions", body)
    assert answer["choices"][0]["text"] == client.generate(DOCUMENT, max_tokens=40).wait().text


def test_prometheus_scrapes_all_replicas_and_knows_the_rules(stack: ComposeStack) -> None:
    """Without Grafana, which no package brings."""
    stack.up_only("prometheus", profile="monitoring")

    def scraped() -> Counter[str]:
        targets = ask_prometheus(stack, "targets")["activeTargets"]
        return Counter(target["labels"]["job"] for target in targets if target["health"] == "up")

    wait_for(lambda: scraped() == {"verifier": 1, "drafter": 2, "gateway": 1}, SOON_S)
    (group, *_) = ask_prometheus(stack, "rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    query = urllib.parse.quote("sum(lookahead_generation_tokens_total) > 0")
    wait_for(lambda: bool(ask_prometheus(stack, f"query?query={query}")["result"]), SOON_S)


def ask_prometheus(stack: ComposeStack, what: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://{stack.prometheus_address}/api/v1/{what}") as response:
            data: dict[str, Any] = json.load(response)["data"]
    except ConnectionError:  # it is still starting
        return {"activeTargets": [], "result": []}
    return data


def test_a_namespace_travels_in_a_file(
    stack: ComposeStack, client: Client, taught: GenerationResult
) -> None:
    vocabulary = client.model().vocabulary_fingerprint
    assert _tokens_in_redis(stack, vocabulary, MEMORY) > 40  # written to a file by the way
    stack.execute(
        "drafter", "lookahead", "trie", "import", f"/tmp/{MEMORY}", "-n", "elsewhere",
        f"--vocabulary={vocabulary}",
    )  # fmt: skip
    wait_for(lambda: max(_tokens(stack, "elsewhere"), default=0) > 40, SOON_S)


def test_a_copy_of_redis_file_brings_back_what_was_lost(
    stack: ComposeStack, client: Client, taught: GenerationResult, tmp_path: Path
) -> None:
    tar = [DOCKER, "run", "--rm", "--interactive", "-v", f"{PROJECT}_redis:/data", REDIS_IMAGE]
    backup = tmp_path / "memory.tar"
    stack.stop("redis")
    with backup.open("wb") as file:
        subprocess.run([*tar, "tar", "-C", "/data", "-c", "."], stdout=file, check=True)
    # Whoever remembers what Redis lost writes it anew: stop all who do.
    stack.stop("drafter")
    subprocess.run([*tar, "sh", "-c", "rm -rf /data/*"], check=True)
    stack.start("redis")
    stack.start("drafter")
    vocabulary = client.model().vocabulary_fingerprint
    assert _tokens_in_redis(stack, vocabulary, MEMORY) == 0
    stack.stop("redis")
    with backup.open("rb") as file:
        restore = "rm -rf /data/* && tar -C /data -x"
        subprocess.run([*tar, "sh", "-c", restore], stdin=file, check=True)
    stack.start("redis")
    client.generate(STORY, max_tokens=4, namespace=MEMORY).wait()  # it is loaded when asked for
    wait_for(lambda: max(_tokens(stack, MEMORY), default=0) > 40, SOON_S)


def test_a_killed_drafter_changes_no_word(stack: ComposeStack, client: Client) -> None:
    undisturbed = client.generate(STORY, speculation="off", **LONG).wait()
    victim = stack.drafter_in_use()
    result = during(client, lambda: docker("kill", victim) and None)
    assert result.text == undisturbed.text
    wait_for(lambda: stack.drafter_in_use() != victim, SOON_S)
    docker("start", victim)
    wait_for(lambda: health(victim) == "healthy", SOON_S)


def test_a_cut_off_drafter_changes_no_word(stack: ComposeStack, client: Client) -> None:
    undisturbed = client.generate(STORY, speculation="off", **LONG).wait()
    victim, network = stack.drafter_in_use(), f"{PROJECT}_drafts"
    result = during(client, lambda: docker("network", "disconnect", network, victim) and None)
    assert result.text == undisturbed.text
    client.generate(STORY, max_tokens=20).wait()  # a request notices at the latest
    docker("network", "connect", "--alias=drafter", network, victim)
    wait_for(lambda: health(victim) == "healthy", SOON_S)


def test_redis_may_go_and_come_back(stack: ComposeStack, client: Client) -> None:
    undisturbed = client.generate(STORY, speculation="off", **LONG).wait()
    result = during(client, lambda: stack.stop("redis"), namespace="while-redis-was-away")
    assert result.text == undisturbed.text
    stack.start("redis")
    # What was learned without it is written afterwards.
    vocabulary = client.model().vocabulary_fingerprint
    wait_for(lambda: _tokens_in_redis(stack, vocabulary, "while-redis-was-away") > 40, SOON_S)


def test_new_drafters_learn_what_the_others_know(stack: ComposeStack, client: Client) -> None:
    undisturbed = client.generate(STORY, speculation="off", **LONG).wait()
    stack.up(drafters=1)
    result = during(client, lambda: stack.up(drafters=3))
    assert result.text == undisturbed.text
    names = stack.containers("drafter")
    # A drafter follows the namespaces that it was asked about: teach each another run of 50.
    teach = (
        "import sys; from lookahead.client.drafter_client import DrafterClient\n"
        "for i, name in enumerate(sys.argv[2:]):\n"
        "    with DrafterClient(f'{name}:50052') as client:\n"
        "        client.learn(sys.argv[1], 'all-three', [range(50 * i + 5, 50 * i + 55)])"
    )
    vocabulary = client.model().vocabulary_fingerprint
    stack.execute("drafter", "python", "-c", teach, vocabulary, *names)
    wait_for(lambda: [held >= 150 for held in _tokens(stack, "all-three")] == [True] * 3, SOON_S)
    addresses = [f"--drafter={name}:50052" for name in names]
    stack.execute("drafter", "lookahead", "trie", "digest", *addresses)  # fails where they differ


def test_a_stopped_verifier_ends_what_it_began(stack: ComposeStack, client: Client) -> None:
    """The last one on this stack: it leaves no verifier."""
    undisturbed = client.generate(STORY, speculation="off", **LONG).wait()
    stopping = threading.Thread(target=lambda: stack.stop("verifier"))
    result = during(client, stopping.start)
    stopping.join()
    (verifier,) = stack.containers("verifier")
    assert docker("inspect", "--format", "{{.State.ExitCode}}", verifier) == "0"
    assert (result.text, result.finish_reason) == (undisturbed.text, undisturbed.finish_reason)


def test_the_memory_outlives_all_containers(
    secure: tuple[ComposeStack, TlsFiles], taught: GenerationResult
) -> None:
    """Sampled text repeats nothing by itself: only a memory of the first run can draft it."""
    stack, tls = secure
    drafted_cold = taught.speculation.num_accepted_tokens
    with Client(_address(stack), tls=tls) as client:

        def is_warm() -> bool:
            result = client.generate(STORY, **WARM, namespace=MEMORY, learn="none").wait()
            assert result.text == taught.text
            return result.speculation.num_accepted_tokens >= drafted_cold + 20

        wait_for(is_warm, DRAFTS_S)  # the first request has the memory loaded


def test_all_of_it_speaks_tls(secure: tuple[ComposeStack, TlsFiles], model: Path) -> None:
    stack, tls = secure
    with Client(_address(stack), tls=tls) as client:
        words = client.generate(DOCUMENT, max_tokens=40).wait()

        def drafts() -> bool:
            result = client.generate(DOCUMENT, max_tokens=40, speculation="tree").wait()
            return result.speculation.num_accepted_tokens >= 20

        wait_for(drafts, DRAFTS_S)  # drafters are reached, too
    with Client(_address(stack)) as plain, pytest.raises(Unavailable):
        plain.model()
    options = [f"--tls-{name}={getattr(tls, name)}" for name in ("ca", "cert", "key")]
    asked = ["generate", f"--address={_address(stack)}", "--json", "-n", "40", DOCUMENT]
    printed = subprocess.run(
        [BIN / "lookahead", *options, *asked], check=True, stdout=subprocess.PIPE
    )
    assert json.loads(printed.stdout)["text"] == words.text
    body = {"model": model.name, "max_tokens": 40, "temperature": 0, "prompt": DOCUMENT}
    answer = post(stack, "/v1/completions", body)
    assert answer["choices"][0]["text"] == words.text
    (first, _) = stack.containers("drafter")
    assert "shared memory connected" in logs(first)


def _address(secure: ComposeStack) -> str:
    """By the name that the certificate has."""
    return "localhost:" + secure.grpc_address.partition(":")[2]


def _tokens(stack: ComposeStack, namespace: str) -> list[int]:
    """Return how many tokens of a namespace each drafter holds that follows it."""
    addresses = [f"--drafter={name}:50052" for name in stack.containers("drafter")]
    listed = stack.execute("drafter", "lookahead", "trie", "list", "--json", *addresses)
    infos = [info for infos in json.loads(listed).values() for info in infos]
    return [info["num_tokens"] for info in infos if info["namespace"] == namespace]


def _tokens_in_redis(stack: ComposeStack, vocabulary: str, namespace: str) -> int:
    """Return how many tokens of a namespace an export from Redis writes, to /tmp/NAMESPACE."""
    printed = stack.execute(
        "drafter", "sh", "-c",
        f"lookahead trie export /tmp/{namespace} -n {namespace} --vocabulary={vocabulary}"
        ' --redis "$LOOKAHEAD_DRAFTER_REDIS_URL" || true',  # nothing is there yet
    )  # fmt: skip
    found = re.search(r"wrote ([\d,]+) tokens", printed)
    return int(found[1].replace(",", "")) if found else 0
