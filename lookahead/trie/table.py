"""The drafters' memories as a table: one row per drafter and namespace."""

from rich.table import Table

from lookahead.client.drafter_client import NamespaceInfo

NOTHING = "No namespace is in memory."


def draw_table(
    found: dict[str, list[NamespaceInfo]],
    before: dict[tuple[str, str, str], int] | None = None,
    interval_s: float = 1.0,
) -> Table:
    """Draw one row per drafter and namespace; with `before`, tokens learned per second too."""
    table = Table(box=None, pad_edge=False)
    for heading in ("drafter", "namespace"):
        table.add_column(heading)
    for heading in ("tokens", "tokens/s", "MiB") if before is not None else ("tokens", "MiB"):
        table.add_column(heading, justify="right")
    table.add_column("behind", justify="right")
    table.add_column("digest")
    table.add_column("position")
    for name, infos in found.items():
        for info in infos:
            known = (before or {}).get((name, info.vocabulary, info.namespace), info.num_tokens)
            speed = [f"{(info.num_tokens - known) / interval_s:,.0f}"] if before is not None else []
            table.add_row(
                name,
                info.namespace,
                f"{info.num_tokens:,}",
                *speed,
                f"{info.num_bytes / (1 << 20):,.1f}",
                _behind(info),
                info.digest[:12],
                info.log_position or "-",
            )
    return table


def _behind(info: NamespaceInfo) -> str:
    """Say how far a drafter is behind the log: entries and seconds; nothing while it is not."""
    if not info.log_position:
        return "no log"
    if info.lag_s == 0.0 and info.lag_entries == 0:
        return "-"
    return f"{info.lag_entries:,} in {info.lag_s:,.1f} s"
