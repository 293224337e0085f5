"""Every address of the API that is simulated, the verb behind it and the parameters it takes.

What stands after the bar is taken and left aside, because it changes nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from services.gateways.simulated_stripe import (
    cards,
    catalogue,
    checkout,
    collection,
    customers,
    events,
    invoices,
    payments,
    portal,
    previews,
    refunds,
    subscriptions,
)
from services.gateways.simulated_stripe.books import Books, Thing
from services.gateways.simulated_stripe.wire import Params, Refused

PAGE = "limit starting_after ending_before created"
PRODUCT = "name description active metadata statement_descriptor unit_label url | images shippable tax_code"
SUBSCRIPTION = (
    "items payment_behavior metadata description default_payment_method cancel_at_period_end | off_session "
    "collection_method payment_settings automatic_tax proration_behavior"
)
SESSION = (
    "mode line_items customer customer_email client_reference_id metadata payment_intent_data subscription_data success_url "
    "cancel_url expires_at | payment_method_types locale automatic_tax allow_promotion_codes billing_address_collection "
    "submit_type saved_payment_method_options payment_method_collection customer_update customer_creation "
    "tax_id_collection consent_collection custom_text ui_mode currency payment_method_options"
)
INTENT = (
    "payment_method off_session error_on_requires_action | payment_method_types automatic_payment_methods receipt_email "
    "setup_future_usage return_url statement_descriptor statement_descriptor_suffix use_stripe_sdk"
)


@dataclass(frozen=True)
class Address:
    """One address: how it is asked, by which verb, with which parameters."""

    method: str
    pattern: re.Pattern[str]
    verb: Callable[..., Thing]
    takes: frozenset[str]


def _address(method: str, path: str, verb: Callable[..., Thing], takes: str = "") -> Address:
    pattern = re.compile("/v1" + path.replace("ID", r"([^/]+)"))
    return Address(method, pattern, verb, frozenset(takes.split()) - {"|"} | {"expand"})


ADDRESSES = (
    _address("POST", "/customers", customers.create, "email name phone description metadata payment_method"),
    _address("GET", "/customers", customers.listed, f"email {PAGE}"),
    _address("GET", "/customers/ID", customers.retrieve),
    _address("POST", "/customers/ID", customers.update, "email name phone description metadata invoice_settings"),
    _address("DELETE", "/customers/ID", customers.delete),
    _address("GET", "/customers/ID/payment_methods", lambda b, g, id: cards.listed(b, g, id), f"{PAGE} | type"),
    _address("POST", "/payment_methods", cards.create, "type card | billing_details metadata"),
    _address("GET", "/payment_methods", cards.listed, f"customer {PAGE} | type"),
    _address("GET", "/payment_methods/ID", cards.retrieve),
    _address("POST", "/payment_methods/ID/attach", cards.attach, "customer"),
    _address("POST", "/payment_methods/ID/detach", cards.detach),
    _address("POST", "/products", catalogue.create_product, f"id {PRODUCT}"),
    _address("GET", "/products", catalogue.list_products, f"active ids {PAGE}"),
    _address("GET", "/products/ID", catalogue.retrieve_product),
    _address("POST", "/products/ID", catalogue.update_product, f"default_price {PRODUCT}"),
    _address(
        "POST", "/prices", catalogue.create_price,
        "currency unit_amount unit_amount_decimal product product_data recurring lookup_key transfer_lookup_key nickname "
        "metadata active tax_behavior | billing_scheme",
    ),
    _address("GET", "/prices", catalogue.list_prices, f"active lookup_keys product type currency recurring {PAGE}"),
    _address("GET", "/prices/ID", catalogue.retrieve_price),
    _address("POST", "/prices/ID", catalogue.update_price, "active metadata nickname lookup_key transfer_lookup_key"),
    _address("POST", "/checkout/sessions", checkout.create, SESSION),
    _address("GET", "/checkout/sessions", checkout.listed, f"customer status payment_intent subscription {PAGE}"),
    _address("GET", "/checkout/sessions/ID", checkout.retrieve),
    _address("GET", "/checkout/sessions/ID/line_items", checkout.list_items, PAGE),
    _address("POST", "/checkout/sessions/ID/expire", checkout.expire),
    _address(
        "POST", "/payment_intents", payments.create, f"customer amount currency confirm metadata description {INTENT}"
    ),
    _address("GET", "/payment_intents", payments.listed, f"customer {PAGE}"),
    _address("GET", "/payment_intents/ID", payments.retrieve),
    _address("POST", "/payment_intents/ID/confirm", payments.confirm, INTENT),
    _address("POST", "/payment_intents/ID/cancel", payments.cancel, "cancellation_reason"),
    _address("GET", "/charges", payments.list_charges, f"customer payment_intent {PAGE}"),
    _address("GET", "/charges/ID", payments.retrieve_charge),
    _address("GET", "/charges/ID/refunds", lambda b, g, id: refunds.listed(b, g, id), PAGE),
    _address("POST", "/subscriptions", subscriptions.create, f"customer {SUBSCRIPTION} currency"),
    _address("GET", "/subscriptions", subscriptions.listed, f"customer status price {PAGE}"),
    _address("GET", "/subscriptions/ID", subscriptions.retrieve),
    _address(
        "POST", "/subscriptions/ID", subscriptions.update,
        f"proration_behavior proration_date billing_cycle_anchor cancellation_details {SUBSCRIPTION}",
    ),
    _address("DELETE", "/subscriptions/ID", subscriptions.cancel, "cancellation_details | invoice_now prorate"),
    _address("GET", "/invoices", invoices.listed, f"customer subscription status {PAGE}"),
    _address("POST", "/invoices/create_preview", previews.create, "customer subscription subscription_details | currency"),
    _address("GET", "/invoices/ID", invoices.retrieve),
    _address("POST", "/invoices/ID/pay", collection.pay, "payment_method | off_session"),
    _address("POST", "/invoices/ID/void", invoices.void_by_id),
    _address("GET", "/invoice_payments", invoices.list_payments, f"invoice payment status {PAGE}"),
    _address("POST", "/refunds", refunds.create, "charge payment_intent amount metadata reason"),
    _address("GET", "/refunds", refunds.listed, f"charge payment_intent {PAGE}"),
    _address("GET", "/refunds/ID", refunds.retrieve),
    _address("GET", "/disputes", refunds.list_disputes, f"charge payment_intent {PAGE}"),
    _address("GET", "/disputes/ID", refunds.retrieve_dispute),
    _address("POST", "/disputes/ID/close", refunds.accept_dispute),
    _address("POST", "/billing_portal/sessions", portal.create, "customer return_url | configuration locale"),
    _address("GET", "/events", events.listed, f"type types delivery_success {PAGE}"),
    _address("GET", "/events/ID", events.retrieve),
)  # fmt: skip


def carry_out(books: Books, method: str, path: str, given: Params) -> Thing:
    """Find the verb of an address and call it. Raises Refused."""
    for address in ADDRESSES:
        found = address.pattern.fullmatch(path)
        if found and address.method == method:
            given.only(address.takes)
            return address.verb(books, given, *found.groups())
    raise Refused(
        404, f"Unrecognized request URL ({method}: {path}). The simulated gateway does not have this address."
    )
