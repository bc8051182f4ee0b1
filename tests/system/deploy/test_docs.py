"""What docs/operations.md says about files, components and settings is so."""

import re

import pytest

from drafter.config import DrafterConfig
from lookahead.gateway.config import GatewayConfig
from tests.support.deploy.manifests import ROOT
from tests.support.servers.running_verifier import small_model
from verifier.api.limits import described
from verifier.api.validation import Limits
from verifier.config import VerifierConfig

TEXT = (ROOT / "docs/operations.md").read_text()


def test_every_component_is_described_and_every_one_described_is_there() -> None:
    table = TEXT.split("| component | adds |")[1].split("\n\n")[0]
    listed = set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "deploy/k8s/components").iterdir()}


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?<![\w/])(?:tests/)?deploy/[\w/.-]+\w", TEXT)))
)
def test_paths_are_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([\w-]+)`", TEXT))))
def test_make_targets_are_there(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:max|kv|drain|namespace)_\w+)[`=]", TEXT)))
)
def test_settings_are_there(name: str) -> None:
    assert (
        name
        in VerifierConfig.model_fields | DrafterConfig.model_fields | GatewayConfig.model_fields
    )


def test_bytes_per_token_follow_from_the_shapes_given() -> None:
    """2 · layers · kv heads · head size · bytes per number; whole pages of 64 in 60 GiB."""
    rows = re.findall(
        r"^\| (\d+) layers, (\d+) kv heads of (\d+), bfloat16"
        r".*?\| ([\d,]+) \| (\d+) \| (\d+) \|",
        TEXT,
        re.MULTILINE,
    )
    assert len(rows) == 3
    for layers, heads, size, per_token, *sequences in rows:
        num_bytes = 2 * int(layers) * int(heads) * int(size) * 2
        assert num_bytes == int(per_token.replace(",", ""))
        num_pages = 60 * 2**30 // (64 * num_bytes)
        assert [num_pages // -(-n // 64) for n in (4000, 32_000)] == list(map(int, sequences))


def test_every_limit_that_a_server_tells_is_explained() -> None:
    names = {
        name
        for cell in re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", TEXT, re.MULTILINE)
        for name in re.findall("`([a-z_]+)`", cell)
    }
    config = VerifierConfig(model="m")
    limits = Limits(vocabulary_size=9, max_context=99, max_nodes=9, max_depth=9, allows_drafts=True)
    told = {*described(limits, small_model(), config), *GatewayConfig().limits()}
    assert told <= names
