"""From a model's name to a running engine: weights, form, packed products, step-time curve."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from rpc.contract import StartupPart
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.model import attention
from verifier.model.findings import Findings, cache_path
from verifier.model.generation_config import recommended_sampling
from verifier.model.ladder import choose_way
from verifier.model.measurements import load_or_measure
from verifier.model.model import TargetModel
from verifier.model.parallel import Group, RankZeroModel, follow
from verifier.model.probe import own_context
from verifier.model.weights import load_weights, model_config
from verifier.speculation.draft_client import DraftClient
from verifier.speculation.draft_source import EMBEDDED, DraftSource
from verifier.text.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)


class NotBitwise(RuntimeError):
    """The model's rows are not bitwise independent, and the settings require it."""


def load_model(config: VerifierConfig) -> TargetModel:
    """Load the weights, find the form the model is right in, and make its products fast."""
    group = Group()
    return _prepare(_load_weights(config, group), config, group)


def _load_weights(config: VerifierConfig, group: Group) -> PreTrainedModel:
    if config.threads:
        torch.set_num_threads(config.threads)
    if group.size > 1:
        group.check(config.model, model_config(config.model))
        group.join(config.device)
    return load_weights(
        config.model, device=config.device, dtype=config.dtype, num_processes=group.size
    )


def _wrap(hf: PreTrainedModel, config: VerifierConfig, group: Group) -> TargetModel:
    kind = TargetModel if group.size == 1 or group.rank else RankZeroModel
    model = kind(
        hf,
        model_name(config.model),
        max_context=_max_context(hf.config, config.max_context),
        attention=_attention(hf, config, group),
    )
    if config.generation_config == "auto":
        model.recommended = recommended_sampling(config.model)
    return model


def _attention(hf: PreTrainedModel, config: VerifierConfig, group: Group) -> str:
    """The kernels in Triton serve one process."""
    is_cut = config.attention == "auto" and group.size > 1 and hf.device.type == "cuda"
    return "masked" if is_cut else config.attention


def _max_context(config: PreTrainedConfig, setting: int) -> int:
    """As set, but within the positions that the model has."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None) or setting
    return min(setting, limit) if setting else own_context(config)


def follow_leader(config: VerifierConfig, group: Group) -> None:
    """Hold a share of the model until rank 0 stops."""
    hf = _load_weights(config, group)
    attention.register()
    follow(_wrap(hf, config, group))


def _prepare(hf: PreTrainedModel, config: VerifierConfig, group: Group) -> TargetModel:
    model = _wrap(hf, config, group)
    choose_way(
        model,
        hf,
        graphs=config.graphs,
        num_slots=config.max_sequences,
        draft_rows=1 + config.max_nodes,
        kv_memory=config.kv_memory,
        may_shrink=not config.max_context,
        findings=Findings(cache_path()),
    )
    return model


def model_name(path: str) -> str:
    """What to call the model: a hub id as it is, a local path by its last part."""
    return Path(path).name if Path(path).exists() else path


def make_engine(
    model: TargetModel,
    tokenizer: Tokenizer,
    config: VerifierConfig,
    worker: ThreadPoolExecutor | None = None,
) -> Engine:
    """Connect the engine's parts; `worker`: the thread that this runs in, if it has a thread."""
    drafts = _drafts(model, tokenizer, config)
    measured = load_or_measure(Findings(cache_path()), model)
    return Engine(model, tokenizer, drafts, measured, config, Counters(), worker)


def _drafts(model: TargetModel, tokenizer: Tokenizer, config: VerifierConfig) -> DraftSource | None:
    """Where the settings say that drafts come from."""
    vocabulary: dict[str, Any] = {
        "vocabulary": tokenizer.fingerprint,
        "vocabulary_size": model.vocabulary_size,
    }
    if config.drafter == EMBEDDED:
        # By its name, since neither service imports the other, and that package knows both.
        found: DraftSource = import_module("embedded.drafts").EmbeddedDrafts(**vocabulary)
        return found
    addresses = [address.strip() for address in config.drafter.split(",") if address.strip()]
    if not addresses:
        return None
    return DraftClient(addresses, tls=config.drafter_tls(), **vocabulary)


async def load_engine(
    config: VerifierConfig, group: Group, announce: Callable[[StartupPart], object]
) -> tuple[Engine, Tokenizer]:
    """Load everything, in the thread that will compute; takes seconds to minutes."""
    worker = ThreadPoolExecutor(1, thread_name_prefix="torch")
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(worker, _load_engine, config, group, announce, worker)
    except BaseException:
        worker.shutdown(wait=False)
        raise


def _load_engine(
    config: VerifierConfig,
    group: Group,
    announce: Callable[[StartupPart], object],
    worker: ThreadPoolExecutor,
) -> tuple[Engine, Tokenizer]:
    hf = _load_weights(config, group)
    announce(StartupPart.WEIGHTS)
    # Beside the work on the weights, but neither beside their loading, since both import parts of
    # transformers, nor beside the timing of steps.
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
        loading = pool.submit(_load_tokenizer, config.model)
        model = _prepare(hf, config, group)
        _check_bitwise(model, config)
        tokenizer = loading.result()
    announce(StartupPart.FORM)
    engine = make_engine(model, tokenizer, config, worker)
    announce(StartupPart.STEP_TIMES)
    return engine, tokenizer


def _check_bitwise(model: TargetModel, config: VerifierConfig) -> None:
    if config.require_bitwise and not model.bitwise:
        raise NotBitwise(
            f"{model.name} on {model.device} is not bitwise, which require_bitwise asks for: "
            f"{model.not_bitwise_reason}"
        )


def _load_tokenizer(name: str) -> Tokenizer:
    tokenizer = load_tokenizer(name)
    tokenizer.prepare_grammars()
    return tokenizer
