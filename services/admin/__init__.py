"""What admins see and do: the figures of the whole yard, one member at a time, the price list, and a record of every act.

audit      the record: who did what to whom, why       dashboard  the figures of today, and what needs somebody
members    finding a member, acting on one             plans      the price list
reports    plans, use, months, any past day            upkeep     renewals and messages that need a hand

Every verb takes the admin first, and a `Why`; what it changes and its line in the record are one transaction.
"""

from services.admin.audit import Why, audit, entries
from services.admin.dashboard import alerts, figures, movement, spent_by_day
from services.admin.members import (
    Filter,
    assign_plan,
    change_credits,
    end_plan,
    everybody,
    look_at,
    member_for,
    names,
    page,
    refund,
    set_role,
    set_suspended,
)
from services.admin.plans import (
    activate_plan,
    archive_plan,
    create_plan,
    edit_plan,
    members_by_plan,
    plan_for,
    prices,
    set_price,
)
from services.admin.reports import day, distribution, months, top_members
from services.admin.upkeep import dead_events, force_renewal, try_event_again

__all__ = [
    "Filter",
    "Why",
    "activate_plan",
    "alerts",
    "archive_plan",
    "assign_plan",
    "audit",
    "change_credits",
    "create_plan",
    "day",
    "dead_events",
    "distribution",
    "edit_plan",
    "end_plan",
    "entries",
    "everybody",
    "figures",
    "force_renewal",
    "look_at",
    "member_for",
    "members_by_plan",
    "months",
    "movement",
    "names",
    "page",
    "plan_for",
    "prices",
    "refund",
    "set_price",
    "set_role",
    "set_suspended",
    "spent_by_day",
    "top_members",
    "try_event_again",
]
