"""How long a batch takes: seconds = fixed + per_row * rows, learned from the batches that ran.

Sizes are grouped by powers of two. Each group keeps its last few batches and is represented by their median, so that
a stall of the machine changes nothing, and a lasting change counts after a few batches. The line is fitted to the
groups by least squares of the relative error (otherwise the largest batches would outvote single rows); a group counts
less the longer ago it was measured.

An unknown cost is assumed to be the least that it can be: no request is refused on a guess. It is 0 before the first
batch, and a batch larger than all measured ones is assumed to cost as much as the largest of them.
"""

from collections import deque
from dataclasses import dataclass, field

WINDOW = 7  # batches of a group; up to 3 of them may be outliers
# With each batch of another size a group's weight falls by WEIGHT_DECAY, but never below MIN_WEIGHT: an old slope is
# better than none.
WEIGHT_DECAY = 0.99
MIN_WEIGHT = 1e-3
SHORTEST = 1e-6  # seconds; below it a clock measures itself

# How far a prediction is trusted when deadlines are refused for it:
WAIT_MARGIN = 0.1  # times the wait for others: the margin that a deadline must leave, in case the prediction is too low
STALE_AFTER_COSTS = 10  # times the cost: an engine idle for longer than this is not held to the prediction any more


@dataclass(slots=True)
class _Group:
    """The last batches of similar sizes, as (seconds, rows), the median of them, and the number of the last one."""

    batches: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    median: tuple[float, int] = (0.0, 0)
    latest: int = 0


class CostModel:
    """The measured cost of one graph's batches.

    Args:
        max_batch_rows: more rows than this take several batches.
    """

    def __init__(self, max_batch_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._groups: dict[int, _Group] = {}
        self._batches = 0
        self._largest = 0
        self._fixed = 0.0
        self._per_row = 0.0

    def seconds(self, rows: int) -> float:
        """Predicted seconds for `rows` rows, in as few batches as possible."""
        if rows <= self._max_batch_rows:
            return self._of_batch(rows)
        full, rest = divmod(rows, self._max_batch_rows)
        return full * self._of_batch(self._max_batch_rows) + (self._of_batch(rest) if rest else 0.0)

    def limit_batches(self, rows: int) -> None:
        """Limit batches to `rows` rows from now on."""
        self._max_batch_rows = rows

    def measured(self, rows: int, seconds: float) -> None:
        """Learn that a batch of `rows` rows took `seconds`."""
        self._batches += 1
        group = self._groups.get(rows.bit_length())
        if group is None:
            group = self._groups[rows.bit_length()] = _Group()
        group.latest = self._batches
        group.batches.append((max(seconds, SHORTEST), rows))
        # For an even number, the faster of the middle two: the first slow batches of a process are forgotten sooner.
        median = sorted(group.batches)[(len(group.batches) - 1) // 2]
        if median != group.median:
            group.median = median
            self._largest = max(self._largest, median[1])
            self._fit()

    def _of_batch(self, rows: int) -> float:
        return self._fixed + self._per_row * min(rows, self._largest)

    def _fit(self) -> None:
        """Weighted least squares of (fixed + per_row * rows) / cost = 1 over the groups, with neither part negative."""
        s, sx, sxx, sy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0
        for group in self._groups.values():
            y, x = group.median
            weight = max(MIN_WEIGHT, WEIGHT_DECAY ** (self._batches - group.latest)) / (y * y)
            s += weight
            sx += weight * x
            sxx += weight * x * x
            sy += weight * y
            sxy += weight * x * y
        determinant = s * sxx - sx * sx
        flat = determinant <= 1e-9 * s * sxx  # a single size: the least it can mean for a smaller one is its share
        per_row = sxy / sxx if flat else (s * sxy - sx * sy) / determinant
        fixed = 0.0 if flat else (sy - per_row * sx) / s
        if per_row < 0:
            per_row, fixed = 0.0, sy / s
        elif fixed < 0:
            per_row, fixed = sxy / sxx, 0.0
        self._per_row, self._fixed = per_row, fixed
