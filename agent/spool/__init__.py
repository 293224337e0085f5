"""The durable record of one attempt: what was said is on disk first, and on the wire only afterwards.

A spool is a folder of append-only segments, one row of them for each stream. The name of a segment carries the number
of its first record (`log-000000000017.spool`), so a record is found without an index. A record is

    length of the payload (u32) | CRC-32 of what follows (u32) | stream (u8) | number (u64) | payload (JSON, UTF-8)

in little endian. One process writes (`Spool`), any other may read at the same time (`SpoolReader`): a record whose
checksum does not hold yet is simply not there yet. After a crash the writer cuts the torn tail off.

When the budget is used up, the oldest log segments go: those the server has committed without a trace, others leave a
`gap` event. Metrics and events are never dropped. A number that is missing is read as an empty record, so the server's
count has no hole. On a full disk log records are given up in the same way and everything else waits in memory.
"""

from __future__ import annotations

from .reader import SpoolReader
from .records import MAX_ITEM_BYTES, Item, empty_item
from .writer import Final, Spool

__all__ = ["MAX_ITEM_BYTES", "Final", "Item", "Spool", "SpoolReader", "empty_item"]
