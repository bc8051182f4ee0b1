"""The figures of each kind of process, from two readings of its metrics."""

from collections.abc import Callable, Mapping
from typing import Any

from lookahead.top.scrape import Change

Figures = dict[str, Any]  # numbers, None where nothing happened, and words


def _verifier(change: Change) -> Figures:
    now = change.now
    states = [state for state, is_it in now.by("state", "speculation_state").items() if is_it]
    return {
        "running": int(now.value("requests_running")),
        "waiting": int(now.value("requests_waiting")),
        "tokens_per_s": change.per_s("generation_tokens_total"),
        "prompt_tokens_per_s": change.per_s("prompt_tokens_total"),
        "tokens_per_step": change.ratio(
            "emitted_tokens_per_step_sum", "emitted_tokens_per_step_count"
        ),
        "step_ms": _times(
            1e3, change.ratio("step_latency_seconds_sum", "step_latency_seconds_count")
        ),
        "gain": now.value("speculation_gain_ratio"),
        "drafting": states[0] if states else "no_drafter",
        "acceptance": change.ratio("accepted_tokens_total", "draft_tokens_total"),
        "accepted_by_source": change.grown_by("source", "accepted_tokens_total"),
        "kv_usage": now.value("kv_cache_usage_ratio"),
        "missed_drafts_per_s": change.per_s("draft_deadline_missed_total"),
    }


def _drafter(change: Change) -> Figures:
    now = change.now
    memory: Figures = {"shared": now.has("redis_up")}
    if now.has("redis_up"):
        memory |= {
            "redis_up": bool(now.value("redis_up")),
            "lag_entries": int(now.value("replication_lag_entries")),
            "lag_s": now.value("replication_lag_seconds"),
            "outbox_entries": int(now.value("outbox_entries")),
            "outbox_dropped": int(now.value("outbox_dropped_total")),
        }
    return {
        "sequences": int(now.value("sessions")),
        "lookup_us": _times(
            1e6, change.ratio("draft_lookup_seconds_sum", "draft_lookup_seconds_count")
        ),
        "trie_tokens": int(now.value("trie_tokens")),
        "trie_bytes": int(now.value("trie_bytes")),
        "namespaces": int(now.value("trie_namespaces")),
        "learned_tokens_per_s": change.per_s("learn_tokens_total"),
        **memory,
    }


def _gateway(change: Change) -> Figures:
    now = change.now
    verifiers = now.by("address", "gateway_verifier_up")
    return {
        "running": int(now.value("gateway_requests_running")),
        "requests_per_s": change.per_s("gateway_requests_total"),
        "tokens_per_s": change.per_s("gateway_generation_tokens_total"),
        "verifiers_up": int(sum(verifiers.values())),
        "verifiers": len(verifiers),
    }


FIGURES: Mapping[str, Callable[[Change], Figures]] = {
    "verifier": _verifier,
    "drafter": _drafter,
    "gateway": _gateway,
}


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
