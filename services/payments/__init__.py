"""Money in and out: what members buy, and how what the gateway knows becomes subscriptions, credits and sales here.

prices   our price list at the gateway           buying   plans, packs, cancelling: the member's verbs
sync     the present state of a gateway object,  inbox    webhooks: verified, stored once, handled by looking again
         brought over here                       refunds  money that goes back, disputes

Every handler is level-triggered: an event only says where to look. What it does is keyed by the object, so it may be done
twice, late, or in another order, from a webhook, a success page or the hourly catch-up (research: billing, part F).
"""

from services.payments.buying import (
    Change,
    Offer,
    Purchase,
    assign,
    buy_pack,
    cancel,
    card_of,
    checkout_plan,
    choose_test_card,
    end_plan_now,
    get_for,
    go_on,
    payments_of,
    plan_page,
    portal_url,
    preview,
    resume,
    settle_checkout,
    upgrade,
)
from services.payments.inbox import again, catch_up, compare, handle_due, oldest_pending, receive
from services.payments.prices import publish
from services.payments.refunds import refund_pack

__all__ = [
    "Change",
    "Offer",
    "Purchase",
    "again",
    "assign",
    "buy_pack",
    "cancel",
    "card_of",
    "catch_up",
    "checkout_plan",
    "compare",
    "choose_test_card",
    "end_plan_now",
    "get_for",
    "go_on",
    "handle_due",
    "oldest_pending",
    "payments_of",
    "plan_page",
    "portal_url",
    "preview",
    "publish",
    "receive",
    "refund_pack",
    "resume",
    "settle_checkout",
    "upgrade",
]
