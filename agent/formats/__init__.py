"""Data files of members, read the same way by the server and by every agent.

`read(path)` finds the container (JSONL, JSON, CSV, TXT) and the format (`FORMATS`), and streams rows in the
one form that training knows. What is wrong with a row is a `BadRow` with its line; what is wrong with the
file as a whole is a `DataError`, or `MappingNeeded` when a member has to say which column is what.
"""

from agent.formats.columns import TARGETS
from agent.formats.reading import BAD_ROWS_KEPT, Reading, read
from agent.formats.rows import FORMATS, ROW_BYTES, BadRow, DataError, MappingNeeded, Message, Row

__all__ = [
    "BAD_ROWS_KEPT",
    "FORMATS",
    "ROW_BYTES",
    "TARGETS",
    "BadRow",
    "DataError",
    "MappingNeeded",
    "Message",
    "Reading",
    "Row",
    "read",
]
