"""The list of metrics as a table in Markdown."""

from cache_sidecar.metrics import definitions


def table() -> str:
    """Returns the table, each metric under the name that queries use."""
    lines = ["| metric | type | labels | of | |", "|---|---|---|---|---|"]
    for metric in definitions.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.sample_name}` | {metric.kind} | {labels} | {', '.join(metric.processes)} | {metric.help} |")
    return "\n".join(lines) + "\n"
