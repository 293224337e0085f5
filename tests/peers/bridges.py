"""What each peer lacks of what our code asks for, supplied on the way to it as Stripe documents it, and nothing more."""

from __future__ import annotations

import dataclasses
import re

from tests.peers.proxy import Call, Object, Pairs, Reply, Send


class LocalstripeBridge:
    """localstripe 1.15.10 refuses an intent's description and knows no `payments` of an invoice."""

    def ask(self, call: Call, send: Send) -> Reply:
        if call.path == "/v1/payment_intents":
            call = dataclasses.replace(call, form=[pair for pair in call.form if pair[0] != "description"])
        if call.path.startswith("/v1/invoices/"):
            call = dataclasses.replace(call, query=[pair for pair in call.query if pair[1] != "payments"])
        return send(call)


class EmulateBridge:
    """emulate 0.11.2 has no lookup keys, no product within a new price, and no subscriptions."""

    def __init__(self) -> None:
        self.lookup_keys: dict[str, str] = {}  # by the price's id

    def ask(self, call: Call, send: Send) -> Reply:
        if (call.method, call.path) == ("GET", "/v1/subscriptions"):
            return Reply.of({"object": "list", "url": call.path, "has_more": False, "data": []})
        if (call.method, call.path) == ("POST", "/v1/prices"):
            return self._new_price(call, send)
        if (call.method, call.path) == ("GET", "/v1/prices"):
            return self._prices(call, send)
        return send(call)

    def _new_price(self, call: Call, send: Send) -> Reply:
        product = send(dataclasses.replace(call, path="/v1/products", form=_within(call.form, "product_data")))
        own = [pair for pair in call.form if not pair[0].startswith("product_data")]
        price = send(dataclasses.replace(call, form=[*own, ("product", str(product.json["id"]))]))
        self.lookup_keys[str(price.json["id"])] = dict(call.form)["lookup_key"]
        return Reply.of(self._named(price.json))

    def _prices(self, call: Call, send: Send) -> Reply:
        wanted = [value for name, value in call.query if name.startswith("lookup_keys[")]
        passed = [pair for pair in call.query if not pair[0].startswith("lookup_keys[")]
        found = send(dataclasses.replace(call, query=passed)).json
        named = [self._named(price) for price in found["data"]]
        return Reply.of({**found, "data": [one for one in named if not wanted or one["lookup_key"] in wanted]})

    def _named(self, price: Object) -> Object:
        return {**price, "lookup_key": self.lookup_keys.get(str(price["id"]))}


def _within(form: Pairs, name: str) -> Pairs:
    """The fields of a nested form: `name[a][b]` as `a[b]`."""
    pattern = re.compile(rf"{name}\[(\w+)\](.*)")
    return [(found[1] + found[2], value) for key, value in form if (found := pattern.fullmatch(key))]
