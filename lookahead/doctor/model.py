"""The model: on this disk, readable, and small enough; and what a running server says of it."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from lookahead.client.client import Client
from lookahead.client.errors import LookaheadError
from lookahead.client.results import ModelInfo
from lookahead.doctor.finding import Finding, ok, problem, warning
from lookahead.stack.demo_models import DEMO_MODELS, DemoModel
from lookahead.stack.model_cache import cached_model, is_complete
from lookahead.terminal.tls import api_key
from rpc.health import is_serving
from rpc.units import gib

PACKED_COPIES = 2  # a CPU multiplies by copies that are laid out once


def check_model(model: str, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Whether the verifier will be able to load it."""
    if demo := DEMO_MODELS.get(model):
        made = cached_model(demo.name, environ)
        if not is_complete(made):
            return [_check_demo(demo)]
        model = str(made)
    path = Path(model)
    if path.is_dir():
        return _check_directory(path)
    if path.suffix == ".gguf":
        return [_check_gguf(path)]
    if path.exists() or model.startswith((".", "/", "~")):
        do = "name a folder with a config.json, a .gguf file or a hub id"
        return [problem("model", f"there is no model at {model}", do)]
    return [_check_hub(model, environ)]


def check_served(address: str) -> list[Finding]:
    """Whether the model of the verifier at `address` is bitwise, and how its passes are made.

    Nothing where none serves.
    """
    if not is_serving(address):
        return []
    try:
        with Client(address, key=api_key()) as client:
            model = client.model()
    except LookaheadError:
        return []
    return [_check_rounding(model), _check_passes(model)]


def _check_rounding(model: ModelInfo) -> Finding:
    if model.bitwise:
        return ok("rounding", f"{model.model} is bitwise: drafts change no bit")
    what = f"{model.model} is not bitwise: {model.not_bitwise_reason}"
    do = "expect other words than without drafts where two logits are almost equal"
    return warning("rounding", what, do)


def _check_passes(model: ModelInfo) -> Finding:
    what = f"attention {model.attention}, passes {model.launch}"
    if not model.launch_reason:
        return ok("passes", what)
    do = "the log of the verifier says more; the settings attention and graphs choose a way"
    return warning("passes", f"{what}: {model.launch_reason}", do)


def _check_demo(demo: DemoModel) -> Finding:
    if find_spec("gguf") is None:
        do = "pip install 'lookahead-serving[demo]', or name a model with --model"
        return problem("model", f"what converts {demo.title} is not installed", do)
    when = "will be fetched and converted at the first start"
    return ok("model", f"{demo.title} ({demo.licence}) {when}")


def _check_directory(path: Path) -> list[Finding]:
    from verifier.model.weights import model_config  # needs the verifier's packages

    try:
        config = model_config(str(path))
    except (OSError, ValueError, KeyError) as error:
        do = "check its config.json, or download it again"
        return [problem("model", f"{path}: {str(error).splitlines()[0]}", do)]
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if not weights:
        return [problem("model", f"{path} has no .safetensors file", "convert it to safetensors")]
    what = f"{path.name}, {config.model_type}, {gib(weights)} of weights"
    return [ok("model", what), _check_memory(weights)]


def _check_memory(weights: int) -> Finding:
    import torch

    from verifier.cache.memory import free_bytes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = free_bytes(device)
    have = f"{gib(free)} free on {device.type}"
    if weights > free:
        do = "use a smaller model, quantised weights, or more GPUs"
        return problem("memory", f"{have}, less than the weights take", do)
    if device.type == "cpu" and PACKED_COPIES * weights > free:
        do = "free some memory, or expect slower decoding"
        return warning("memory", f"{have}: not enough for faster copies of the weights", do)
    return ok("memory", have)


def _check_gguf(path: Path) -> Finding:
    if not path.exists():
        return problem("model", f"{path} does not exist", "correct --model")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return problem("model", f"{path} has no GGUF file header", "download it again")
    return ok("model", f"{path.name}, {gib(path.stat().st_size)}")


def _check_hub(model: str, environ: Mapping[str, str]) -> Finding:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return problem("model", f"{model!r} is neither a path nor a hub id", "correct --model")
    if isinstance(cached, str):
        return ok("model", f"{model}, already downloaded")
    if environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        do = "unset HF_HUB_OFFLINE, or copy the model here and name its folder"
        return problem("model", f"{model} is not downloaded, and HF_HUB_OFFLINE is set", do)
    return warning(
        "model", f"{model} will be downloaded from the hub", "wait for it, or name a local folder"
    )
