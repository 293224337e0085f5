"""The gunicorn worker: gevent's, but before it ends it says so to every agent, so that none hangs until a time-out."""

from __future__ import annotations

from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker


class YardWorker(GeventWorker):  # type: ignore[misc]
    def handle_exit(self, sig: int, frame: Any) -> None:
        before_end = getattr(self.wsgi, "extensions", {}).get("before_end")
        if before_end is not None:
            gevent.spawn(before_end)
        super().handle_exit(sig, frame)
