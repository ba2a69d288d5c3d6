"""The rows of parity.json: what was checked, how it came out, and how a person reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError, ParityError
from vaeport.package import has_bytes

PARITY_NAME = "parity.json"


@dataclass(frozen=True, slots=True)
class Check:
    """One output of one graph in one runtime, on one input at one batch size.

    Attributes:
        rung: of the ladder (docs/proof.md).
        error, limit, got, expected: at `index`, which is where the error is the largest share of its limit.
    """

    rung: str
    graph: str
    output: str
    runtime: str
    input: str
    batch: int
    index: tuple[int, ...]
    got: float
    expected: float
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN never is."""
        return self.error <= self.limit

    @property
    def share(self) -> float:
        """The error as a share of its limit."""
        return 0.0 if self.error == 0.0 else self.error / self.limit if self.limit else float("inf")

    def __str__(self) -> str:
        return (
            f"{self.rung}: {self.graph}.{self.output}, {self.runtime}, {self.input} input, batch {self.batch}, "
            f"index {list(self.index)}: expected {self.expected!r}, got {self.got!r}, "
            f"error {self.error:.3g}, limit {self.limit:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is exactly as it must be, or not."""

    rung: str
    graph: str
    runtime: str
    what: str
    expected: str
    got: str

    @property
    def passed(self) -> bool:
        """Whether it is."""
        return self.got == self.expected

    def __str__(self) -> str:
        return f"{self.rung}: {self.graph}, {self.runtime}, {self.what}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class NotRun:
    """A runtime that could not be checked here."""

    runtime: str
    reason: str

    def __str__(self) -> str:
        return f"{self.runtime}: not run: {self.reason}"


@dataclass(slots=True)
class Report:
    """All that a ladder found."""

    checks: list[Check] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Take over the rows of another report."""
        self.checks += other.checks
        self.facts += other.facts
        self.not_run += [row for row in other.not_run if row not in self.not_run]

    @property
    def failed(self) -> list[Check | Fact]:
        """Every row that did not pass."""
        rows: list[Check | Fact] = [*self.facts, *self.checks]
        return [row for row in rows if not row.passed]

    @property
    def worst(self) -> Check:
        """The check of a runtime that came closest to its limit.

        P1 is left out, which compares two truths, and bytes, which are equal or off by one where they may.
        """
        judged = [check for check in self.checks if check.rung != "P1" and not has_bytes(check.graph)]
        return max(judged or self.checks, key=lambda check: check.share)


def compare(
    where: dict[str, Any],
    names: Sequence[str],
    found: Sequence[NDArray[Any]],
    expected: Sequence[NDArray[Any]],
    limits: Sequence[NDArray[Any]],
) -> Report:
    """A check per output.

    Args:
        where: the other fields of Check.
        names: of the outputs.
        found, expected, limits: a tensor per output, with rows first.
    """
    report = Report()
    for name, got, truth, limit in zip(names, found, expected, limits, strict=True):
        if got.shape != truth.shape:
            fact = {key: where[key] for key in ("rung", "graph", "runtime")}
            what = f"shape of {name}, {where['input']} input, batch {where['batch']}"
            report.facts.append(Fact(**fact, what=what, expected=str(truth.shape), got=str(got.shape)))
            continue
        error = np.abs(got.astype(np.float64) - truth)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(error == 0.0, 0.0, error / limit)
        index = np.unravel_index(np.argmax(share), error.shape)  # of NaN, if there is one
        report.checks.append(
            Check(
                **where,
                output=name,
                index=tuple(int(i) for i in index),
                got=float(got[index]),
                expected=float(truth[index]),
                error=float(error[index]),
                limit=float(limit[index]),
            )
        )
    return report


def require(report: Report, consequence: str) -> None:
    """Raise ParityError, with every row that failed and what follows from it, if one did."""
    if failed := report.failed:
        count = len(report.checks) + len(report.facts)
        lines = [f"{len(failed)} of {count} checks failed; {consequence}", *map(str, failed)]
        raise ParityError("\n".join(lines))


def to_json(report: Report) -> dict[str, Any]:
    """The content of parity.json: every row."""
    return {
        "checks": [{**asdict(check), "passed": check.passed} for check in report.checks],
        "facts": [{**asdict(fact), "passed": fact.passed} for fact in report.facts],
        "not_run": [asdict(row) for row in report.not_run],
    }


def from_json(value: Any) -> Report:
    """The report of the content of a parity.json. The first exports had neither rungs nor facts.

    Raises:
        ExportError: it is not one, naming the row.
    """
    try:
        checks, facts, not_run = value["checks"], value.get("facts", []), value.get("not_run", [])
        if not checks:
            raise ValueError("no check in it")
        skipped = [NotRun(str(row["runtime"]), str(row["reason"])) for row in not_run]
        return Report([_check_of(row) for row in checks], [_fact_of(row) for row in facts], skipped)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ExportError(f"not the rows of a proof: {type(error).__name__}: {error}") from error


def _check_of(row: dict[str, Any]) -> Check:
    row = {"rung": "P2", "error": row.get("worst_error"), **row}
    numbers = {name: float(row[name]) for name in ("got", "expected", "error", "limit")}
    values = {**row, **numbers, "batch": int(row["batch"]), "index": tuple(map(int, row["index"]))}
    check = Check(**{key: value for key, value in values.items() if key not in ("passed", "worst_error")})
    _require_as_said(check, row)
    return check


def _fact_of(row: dict[str, Any]) -> Fact:
    fact = Fact(**{key: str(value) for key, value in row.items() if key != "passed"})
    _require_as_said(fact, row)
    return fact


def _require_as_said(found: Check | Fact, row: dict[str, Any]) -> None:
    if row["passed"] is not found.passed:
        raise ValueError(f"a row says that it has {'' if row['passed'] else 'not '}passed: {found}")


def summary(report: Report) -> dict[str, Any]:
    """For the manifest and the card: the worst check, as a share of its limit."""
    return {
        "checks": len(report.checks) + len(report.facts),
        "worst": str(report.worst),
        "worst_share_of_limit": report.worst.share,
        "not_run": [str(row) for row in report.not_run],
    }


def table(report: Report) -> str:
    """For people: a line per rung, graph, output and runtime, with the worst of its checks; then what failed."""
    lines = [_line("rung", "graph.output", "runtime", "checks", "error", "limit", "share", "")]
    lines += [_check_line(rows) for rows in _grouped(report.checks)]
    lines += [f"{'ok  ' if fact.passed else 'FAIL'} {fact}" for fact in report.facts]
    lines += [str(row) for row in report.not_run]
    lines += [f"FAIL {check}" for check in report.checks if not check.passed]
    return "\n".join(lines)


def _grouped(checks: Iterable[Check]) -> list[list[Check]]:
    def key(check: Check) -> tuple[str, ...]:
        return check.rung, check.graph, check.output, check.runtime

    return [list(rows) for _, rows in groupby(sorted(checks, key=key), key)]


def _check_line(rows: list[Check]) -> str:
    worst = max(rows, key=lambda check: (not check.passed, check.share))
    verdict = "ok" if all(check.passed for check in rows) else "FAIL"
    figures = (f"{worst.error:.2e}", f"{worst.limit:.2e}", f"{worst.share:.4f}")
    return _line(worst.rung, f"{worst.graph}.{worst.output}", worst.runtime, str(len(rows)), *figures, verdict)


def _line(*cells: str) -> str:
    widths = (4, 24, 20, 6, 9, 9, 8, 4)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
