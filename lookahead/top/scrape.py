"""Reads the metrics of a running process, and what changed between two readings."""

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from rpc.metrics import PREFIX

TIMEOUT_S = 2.0


class ScrapeError(RuntimeError):
    """A process does not answer, or is not one of ours."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that one process said at one moment; names without our prefix."""

    service: str
    taken: float  # time.monotonic()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]]

    def value(self, name: str, **labels: str) -> float:
        """One number; 0 where the process does not have it."""
        return self.samples.get(name, {}).get(tuple(sorted(labels.items())), 0.0)

    def has(self, name: str) -> bool:
        """Whether the process has such a metric."""
        return name in self.samples

    def by(self, label: str, name: str) -> dict[str, float]:
        """The numbers of a metric by the values of one label, summed over the others."""
        found: dict[str, float] = {}
        for labels, number in self.samples.get(name, {}).items():
            key = dict(labels).get(label, "")
            found[key] = found.get(key, 0.0) + number
        return found


@dataclass(frozen=True, slots=True)
class Change:
    """What happened between two readings of one process; counts began again if it restarted."""

    before: Reading
    now: Reading
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", max(self.now.taken - self.before.taken, 1e-9))

    def grown(self, name: str) -> float:
        """By how much a counter has grown, over all labels."""
        now, before = (sum(r.samples.get(name, {}).values()) for r in (self.now, self.before))
        return now - before if now >= before else now

    def per_s(self, name: str) -> float:
        """The same for each second."""
        return self.grown(name) / self.seconds

    def ratio(self, name: str, over: str) -> float | None:
        """One counter's growth over another's; None where nothing happened."""
        base = self.grown(over)
        return self.grown(name) / base if base else None

    def grown_by(self, label: str, name: str) -> dict[str, float]:
        """Growth by the values of one label."""
        before = self.before.by(label, name)
        now = self.now.by(label, name)
        return {key: max(number - before.get(key, 0.0), 0.0) for key, number in now.items()}


def scrape(address: str, key: str | None = None) -> Reading:
    """Read the metrics at host:port; ScrapeError says what is wrong there.

    `key`: the API key, for a gateway that asks for one.
    """
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://{address}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise ScrapeError(f"answers /metrics with status {error.code}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ScrapeError(f"no answer: {getattr(reason, 'strerror', None) or reason}") from error
    return parse(text)


def parse(text: str) -> Reading:
    """Understand what a process of ours said; ScrapeError if it is none."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    service = ""
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix(PREFIX)
                labels = tuple(sorted(sample.labels.items()))
                samples.setdefault(name, {})[labels] = sample.value
                if name == "build_info":
                    service = sample.labels.get("service", "")
    except ValueError as error:
        raise ScrapeError(f"answers, but not in Prometheus' form: {error}") from error
    if not service:
        raise ScrapeError("answers, but none of our processes runs there")
    return Reading(service, time.monotonic(), samples)
