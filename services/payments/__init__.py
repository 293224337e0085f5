"""Money in and out: what members buy, and how what the gateway knows becomes subscriptions, credits and sales here.

prices        our price list at the gateway       customers  members as the gateway knows them, their card
checkouts     what is about to be bought,         inbox      webhooks: verified, stored once, handled by looking again
              and the page for it                 sync       the present state of a gateway object, brought over here
plan_changes  up, down, cancelled, resumed        refunds    money that goes back, disputes
packs         bought by card or on the page       shapes     what the gateway's objects say

Every handler is level-triggered: an event only says where to look. What it does is keyed by the object, so it may be done
twice, late, or in another order, from a webhook, a success page or the hourly catch-up (research: billing, part F).
"""

from services.payments.checkouts import get_for, settle_checkout
from services.payments.customers import card_of, choose_test_card, portal_url
from services.payments.inbox import again, catch_up, compare, handle_due, oldest_pending, receive
from services.payments.packs import Purchase, buy_pack, payments_of
from services.payments.plan_changes import (
    Change,
    Offer,
    assign,
    cancel,
    checkout_plan,
    end_plan_now,
    go_on,
    plan_page,
    preview,
    resume,
    upgrade,
)
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
