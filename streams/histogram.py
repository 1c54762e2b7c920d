"""A histogram over fixed bounds, counted a batch at a time, as Prometheus wants it."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np


class Histogram:
    """Counts of values by the first bound that is not below them; `sum` is their total.

    One thread adds, others may read meanwhile.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def add_all(self, values: np.ndarray) -> None:
        """Count many values."""
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self.sum += float(values.sum())

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bound, as Prometheus writes it, the values that are not above it; "+Inf" is the last."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(names, np.cumsum(self._counts).tolist(), strict=True))

    def quantile(self, share: float) -> float | None:
        """The value that the `share` of all lies below, by Prometheus' own rule (`histogram_quantile`): linear
        within its bucket, the last bound if it lies above; None while nothing was counted."""
        counts = self._counts.copy()
        below = np.cumsum(counts)
        if not below[-1]:
            return None
        rank = share * below[-1]
        place = int(np.searchsorted(below, rank))
        if place >= len(self._bounds):
            return float(self._bounds[-1])
        low = float(self._bounds[place - 1]) if place else 0.0
        into = (rank - (below[place] - counts[place])) / counts[place]
        return low + (float(self._bounds[place]) - low) * float(into)
