"""The main job: ordering a training, running it through its attempts, taking in what it reports.

submit     check, price and order            orders    stop, resume, retry, cancel
attempts   claim, lease, end, settle         dispatch  letting workers and machines know
record     store reports, charge minutes     events    rows with the job's next number
queries    read                              show      as the API and pages see it
watch      leases, absent machines           estimate  time and price before the start
scripts    what a script may and costs       metering  minutes of a server job
samples    texts and images it showed        figures   memory, load, devices over time
curves     which of them are shown           speed     steps a second of late
logs       as they are read                  facts    in the shapes that pages show
"""

from services.training_jobs.attempts import (
    Final,
    claim,
    end,
    hold_on,
    order_of,
    renew,
    renew_all,
    spec_of,
    stale,
    token_opens,
)
from services.training_jobs.curves import hide_curves
from services.training_jobs.dispatch import push_again, put_away
from services.training_jobs.figures import figures_of
from services.training_jobs.logs import Transcript, log_of, log_tail
from services.training_jobs.orders import cancel, resume, retry, stop
from services.training_jobs.queries import (
    events_after,
    get_for,
    has_open,
    list_for,
    machines_waited_for,
    series_of,
)
from services.training_jobs.record import record, record_all
from services.training_jobs.samples import image_of
from services.training_jobs.samples import list_of as samples_of
from services.training_jobs.scripts import manifest_of, most_minutes, terms_of
from services.training_jobs.show import iso, receipt, summaries, summary, whole
from services.training_jobs.submit import Order, create, faults, price
from services.training_jobs.watch import (
    end_forgotten,
    end_lost_attempts,
    give_up_machines,
    mark_disconnected,
    restart_leases,
)

__all__ = [
    "Final",
    "Order",
    "Transcript",
    "cancel",
    "claim",
    "create",
    "end",
    "end_forgotten",
    "end_lost_attempts",
    "events_after",
    "faults",
    "figures_of",
    "get_for",
    "give_up_machines",
    "has_open",
    "hide_curves",
    "hold_on",
    "image_of",
    "iso",
    "list_for",
    "log_of",
    "log_tail",
    "machines_waited_for",
    "manifest_of",
    "mark_disconnected",
    "most_minutes",
    "order_of",
    "price",
    "push_again",
    "put_away",
    "receipt",
    "record",
    "record_all",
    "renew",
    "renew_all",
    "restart_leases",
    "resume",
    "retry",
    "samples_of",
    "series_of",
    "spec_of",
    "stale",
    "stop",
    "summaries",
    "summary",
    "terms_of",
    "token_opens",
    "whole",
]
