"""What the counts of an epoch are counts of, where the form of the lines tells."""

from __future__ import annotations

import re

from .lines import Reading

# PyTorch's mnist example and what was made after it: `batch_idx * len(data)` of `len(dataset)`.
_MNIST = re.compile(r"\bTrain Epoch: [0-9]++ \[ *+[0-9]++/[0-9]++ \([0-9.]++%\)\]")


class SampleCounts:
    """Whether a script counts samples: it prints `Train Epoch: 1 [640/60000 (1%)]`, and the counts of an epoch never go
    up by one, as those of batches that are all printed do. `is_certain` from the second such line of an epoch on."""

    def __init__(self) -> None:
        self._newest: tuple[int, int] | None = None  # epoch and count
        self._smallest_advance = 0

    @property
    def is_certain(self) -> bool:
        return self._smallest_advance > 1

    def take(self, reading: Reading, line: str) -> None:
        """Looks at the line that the reading is of."""
        if reading.epoch is None or reading.batch is None or _MNIST.search(line) is None:
            return
        before, self._newest = self._newest, (reading.epoch, reading.batch)
        if before is not None and before[0] == reading.epoch and before[1] < reading.batch:
            advance = reading.batch - before[1]
            self._smallest_advance = min(self._smallest_advance or advance, advance)
