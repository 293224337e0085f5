"""Which plan a member is on, what it allows, and how it goes on from period to period.

reading   the live subscription, its period, its limits with what is used
periods   beginning a series and opening every period that is due
terms     what comes at the end of what is paid for; being given a plan
"""

from services.subscriptions.periods import begin, move_up, renew_due, renew_overdue
from services.subscriptions.reading import (
    Use,
    current,
    limit,
    limits_with_use,
    live,
    period,
    refuse_beyond,
    term_end,
    way_out,
)
from services.subscriptions.terms import (
    begin_free,
    cancel_at_end,
    end_given,
    end_series,
    fall_back,
    give,
    keep,
    plan_later,
    put_on_free,
    recurring_cents,
)

__all__ = [
    "Use",
    "begin",
    "begin_free",
    "cancel_at_end",
    "current",
    "end_given",
    "end_series",
    "fall_back",
    "give",
    "keep",
    "limit",
    "limits_with_use",
    "live",
    "move_up",
    "period",
    "plan_later",
    "put_on_free",
    "recurring_cents",
    "refuse_beyond",
    "renew_due",
    "renew_overdue",
    "term_end",
    "way_out",
]
