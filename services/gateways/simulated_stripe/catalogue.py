"""Products and their prices, by the month or the year or for once."""

from __future__ import annotations

from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, invalid

PRODUCT_TEXTS = ("name", "description", "statement_descriptor", "unit_label", "url")


def create_product(books: Books, given: Params) -> Thing:
    """POST /v1/products; `id` may be given."""
    name = given.need("name")
    id = given.text("id") or new_id("prod", 14)
    if books.any(id) is not None:
        raise invalid(f"Product already exists: {id}", "id", "resource_already_exists")
    product: Thing = {
        "id": id, "object": "product", "active": given.flag("active", True), "created": books.second,
        "default_price": None, **{text: given.text(text) for text in PRODUCT_TEXTS}, "name": name, "images": [],
        "livemode": False, "marketing_features": [], "metadata": given.metadata(), "package_dimensions": None,
        "shippable": None, "tax_code": None, "type": "service", "updated": books.second,
    }  # fmt: skip
    return books.add(product, "product.created")


def retrieve_product(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/products/:id"""
    return books.get("product", id)


def update_product(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/products/:id"""
    product = books.get("product", id)
    for name in PRODUCT_TEXTS:
        if name in given:
            product[name] = given.text(name) or None
    product["name"] = product["name"] or given.need("name")
    product["active"] = given.flag("active", product["active"])
    product["metadata"] = given.metadata(product["metadata"])
    if "default_price" in given:
        product["default_price"] = books.named("price", given, "default_price")["id"]
    return books.revise(product, "product.updated")


def list_products(books: Books, given: Params) -> Thing:
    """GET /v1/products, by `active` and `ids`"""
    ids, active = given.texts("ids"), given.flag("active") if "active" in given else None
    return books.listing(
        "product", "/v1/products", given,
        fits=lambda product: (not ids or product["id"] in ids) and active in (None, product["active"]),
    )  # fmt: skip


def create_price(books: Books, given: Params) -> Thing:
    """POST /v1/prices of a product, or with `product_data`"""
    price = _new_price(books, given, active=given.flag("active", True))
    price["nickname"], price["metadata"] = given.text("nickname"), given.metadata()
    _give_lookup_key(books, price, given)
    return books.add(price, "price.created")


def inline_price(books: Books, given: Params) -> Thing:
    """The price that `price_data` describes, written down as not active so that no list offers it again."""
    given.only(
        ("currency", "product", "product_data", "recurring", "tax_behavior", "unit_amount", "unit_amount_decimal")
    )
    return books.add(_new_price(books, given, active=False), "price.created")


def retrieve_price(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/prices/:id"""
    return books.get("price", id, "price")


def update_price(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/prices/:id; the amount of a price never changes"""
    price = books.get("price", id, "price")
    price["active"] = given.flag("active", price["active"])
    price["metadata"] = given.metadata(price["metadata"])
    if "nickname" in given:
        price["nickname"] = given.text("nickname") or None
    if "lookup_key" in given:
        _give_lookup_key(books, price, given)
    return books.revise(price, "price.updated")


def list_prices(books: Books, given: Params) -> Thing:
    """GET /v1/prices, by `lookup_keys`, `active`, `product`, `type`, `currency` and `recurring[interval]`"""
    keys, active = given.texts("lookup_keys"), given.flag("active") if "active" in given else None
    kind, currency, interval = given.text("type"), given.text("currency"), given.part("recurring").text("interval")

    def fits(price: Thing) -> bool:
        return (
            (not keys or price["lookup_key"] in keys)
            and active in (None, price["active"])
            and kind in (None, price["type"])
            and currency in (None, price["currency"])
            and interval in (None, (price["recurring"] or {}).get("interval"))
        )

    return books.listing("price", "/v1/prices", given, parent=given.text("product"), fits=fits)


def _new_price(books: Books, given: Params, *, active: bool) -> Thing:
    currency, amount = given.need("currency"), _amount(given)
    recurring = _recurring(given.part("recurring")) if "recurring" in given else None
    if "product_data" in given:
        product = create_product(books, given.part("product_data"))
    else:
        product = books.named("product", given, "product")
    return {
        "id": new_id("price"), "object": "price", "active": active, "billing_scheme": "per_unit",
        "created": books.second, "currency": currency.lower(), "custom_unit_amount": None, "livemode": False,
        "lookup_key": None, "metadata": {}, "nickname": None, "product": product["id"], "recurring": recurring,
        "tax_behavior": given.text("tax_behavior") or "unspecified", "tiers_mode": None, "transform_quantity": None,
        "type": "recurring" if recurring else "one_time", "unit_amount": amount, "unit_amount_decimal": str(amount),
    }  # fmt: skip


def _amount(given: Params) -> int:
    if "unit_amount" not in given and (decimal := given.text("unit_amount_decimal")):
        if not decimal.isdecimal():
            raise invalid("Prices in parts of a cent are not simulated.", given.param("unit_amount_decimal"))
        return int(decimal)
    return given.need_whole("unit_amount", 0)


def _recurring(given: Params) -> Thing:
    given.only(("interval", "interval_count", "usage_type"))
    given.one_of("usage_type", ("licensed",), "licensed")
    given.need("interval")
    return {
        "interval": given.one_of("interval", ("month", "year"), "month"),
        "interval_count": given.whole("interval_count", 1) or 1, "meter": None, "trial_period_days": None,
        "usage_type": "licensed",
    }  # fmt: skip


def _give_lookup_key(books: Books, price: Thing, given: Params) -> None:
    key = given.text("lookup_key") or None
    for other in books.all("price") if key else ():
        if other["lookup_key"] == key and other["id"] != price["id"]:
            if not given.flag("transfer_lookup_key"):
                raise invalid(f"A price (`{other['id']}`) already uses that lookup key.", "lookup_key")
            other["lookup_key"] = None
            books.revise(other, "price.updated")
    price["lookup_key"] = key
