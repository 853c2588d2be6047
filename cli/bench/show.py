"""Results for people, and as JSON."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from ...models.files import write_text
from .results import Result

_SHOWN = 0.001
"""Rows of a profile that take less of it are left out."""

_ERROR_LINES = 5

_WIDTH = 180
"""Columns of what goes to a file."""

_NUMBERS: Final = {"count": 5, "ms": 8, "share": 5, "us each": 8, "rate": 12, "roofline": 8}
"""Columns of a profile, and how wide they are at least."""

UNITS: Final = {"TFLOP/s": 1e12, "TOP/s": 1e12, "GB/s": 1e9}


def make_console() -> Console:
    """A console whose tables are not squeezed where there is no terminal."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(highlight=False, width=width)


def save(path: Path, results: Sequence[Result]) -> None:
    """Write all results so far as JSON."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"date": now, "results": results, "ratios": ratios(results)}
    write_text(path, json.dumps(record, indent=1) + "\n")


def speed_of(result: Result) -> float | None:
    """What a result is compared by: tokens per second, None where it has none."""
    return result.get("tokens_per_second")


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """The first side's speed over that of every other side of the same job."""
    first: dict[str, float] = {}
    found: dict[str, float] = {}
    for result in results:
        speed, job = speed_of(result), result["job"]
        if speed is None:
            continue
        if job in first:
            found[f"{job}: {title(result)}"] = first[job] / speed
        else:
            first[job] = speed
    return found


def title(result: Result) -> str:
    """The side, and how it computed."""
    name: str = result["name"]
    mode = result.get("mode")
    return f"{name}, {mode}" if mode else name


def show_result(console: Console, result: Result) -> None:
    """What a table of all sides has no room for: errors, profiles, kernels, parts."""
    head = f"{result['job']}, {title(result)}"
    if "error" in result:
        lines = str(result["error"]).splitlines()[-_ERROR_LINES:]
        console.print(f"{head} FAILED: " + "\n    ".join(lines), markup=False)
        return
    for profile in result.get("profiles", ()):
        console.print(_profile_table(result, profile))
    if "kernels" in result:
        console.print(_kernels_table(result))
    if "products" in result:
        console.print(_products_table(head, result))
    if "parts" in result:
        console.print(_parts_table(head, result))


def print_table(console: Console, results: Sequence[Result]) -> None:
    """A row for each side that has a speed."""
    rows = [result for result in results if speed_of(result) is not None]
    if not rows:
        return
    table = Table(title=_where(rows[0]))
    for name in ("job", "side"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens/s", "quartiles", "supervised/s", "ms", "GiB", "ratio"):
        table.add_column(name, justify="right")
    compared = ratios(results)
    for result in rows:
        ratio = compared.get(f"{result['job']}: {title(result)}")
        table.add_row(
            result["job"],
            title(result),
            f"{speed_of(result):,.1f}",
            _quartiles(result),
            _number(result, "supervised_per_second", "{:,.0f}"),
            _milliseconds(result),
            _memory(result),
            "" if ratio is None else f"{ratio:.2f}",
        )
    console.print(table)
    console.print(
        "ms of a step, or of the prefill; GiB as planned / as the driver reports, or as PyTorch's "
        "allocator has used / reserved at most, of the host for NumPy; ratio: the first side's "
        "speed over this one's"
    )
    for line in _counts(rows):
        console.print(line)


def _where(result: Result) -> str:
    return ", ".join(str(result[key]) for key in ("device", "driver") if key in result)


def _number(result: Result, key: str, form: str) -> str:
    return form.format(result[key]) if key in result else ""


def _milliseconds(result: Result) -> str:
    for key in ("step_seconds", "prefill_seconds"):
        if key in result:
            return f"{result[key] * 1e3:,.2f}"
    return ""


def _quartiles(result: Result) -> str:
    """Of the speed, or of the seconds that it follows from."""
    if "tokens_per_second_spread" in result:
        _, low, high, _ = result["tokens_per_second_spread"]
        return f"{low:,.0f} to {high:,.0f}"
    for key in ("step_seconds", "prefill_seconds"):
        if f"{key}_spread" in result:
            _, low, high, _ = result[f"{key}_spread"]
            tokens = result["tokens_per_second"] * result[key]
            return f"{tokens / high:,.0f} to {tokens / low:,.0f}"
    return ""


def _memory(result: Result) -> str:
    keys = (
        ("memory_predicted", "memory_driver"),
        ("memory_allocated", "memory_reserved"),
        ("memory_host",),
    )
    for group in keys:
        if all(key in result for key in group):
            return " / ".join(f"{result[key] / 2**30:.2f}" for key in group)
    return ""


def _counts(results: Sequence[Result]) -> Iterator[str]:
    """Dispatches, submissions and host time of each job on a device."""
    for result in results:
        unit = "step" if "step_seconds" in result else "token"
        if "dispatches" in result and f"submissions_per_{unit}" in result:
            yield (
                f"{result['job']}, {title(result)}: {result['dispatches']} dispatches, "
                f"{result['barriers']} barriers, {result[f'submissions_per_{unit}']:.3g} "
                f"submissions and {result['host_seconds'] * 1e3:.2f} ms of the host a {unit}"
            )


def _rate(row: Result) -> str:
    return f"{row['rate'] / UNITS[row['unit']]:,.3g} {row['unit']}"


def _share(row: Result) -> str:
    return "" if row["roofline"] is None else f"{row['roofline']:.1%}"


def _profile_table(result: Result, profile: Result) -> Table:
    """What each kernel takes; what takes less than a thousandth is left out."""
    table = Table(
        title=f"@{profile['name']} on {_where(result)}: {profile['dispatches']} dispatches, "
        f"{profile['seconds'] * 1e3:.3f} ms one by one"
    )
    for name, width in _NUMBERS.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for name, width in (("kernel", 34), ("shape", 28), ("scope", 24), ("op", 22)):
        table.add_column(name, max_width=width, no_wrap=True)
    for row in profile["rows"]:
        if row["seconds"] < _SHOWN * profile["seconds"]:
            continue
        table.add_row(
            str(row["count"]),
            f"{row['seconds'] * 1e3:.3f}",
            f"{row['seconds'] / profile['seconds']:.1%}",
            f"{row['seconds'] / row['count'] * 1e6:.1f}",
            _rate(row),
            _share(row),
            row["kernel"],
            row["shape"],
            row["scope"],
            row["op"],
        )
    return table


def _kernels_table(result: Result) -> Table:
    table = Table(title=_where(result))
    for name in ("case", "shape", "kernels"):
        table.add_column(name, max_width=40, no_wrap=True)
    for name in ("us", "quartiles", "rate", "roofline"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["kernels"]:
        _, low, high, _ = row["seconds_spread"]
        table.add_row(
            row["case"],
            row["shape"],
            " ".join(row["kernels"]),
            f"{row['seconds'] * 1e6:,.1f}",
            f"{low * 1e6:,.1f} to {high * 1e6:,.1f}",
            _rate(row),
            _share(row),
        )
    return table


def _products_table(head: str, result: Result) -> Table:
    table = Table("shape", title=f"{head}, {_where(result)}")
    for name in ("us", "rate"):
        table.add_column(name, justify="right")
    for row in result["products"]:
        rate = f"{row['operations_per_second'] / 1e12:,.3g} TFLOP/s"
        table.add_row(row["shape"], f"{row['seconds'] * 1e6:,.1f}", rate)
    return table


def _parts_table(head: str, result: Result) -> Table:
    total = result["first_step_seconds"]
    low, _, _, high = result["first_step_seconds_spread"]
    table = Table("part", title=f"{head}: {total:.2f} s ({low:.2f} to {high:.2f})")
    table.add_column("ms", justify="right")
    for name, seconds in sorted(result["parts"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds * 1e3:,.0f}")
    return table
