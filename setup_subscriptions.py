"""Bring a price list into the database and to the payment gateway. Safe to run again: it changes only what differs.

python setup_subscriptions.py                     keeps the list there is; a yard without plans gets the default one
python setup_subscriptions.py --catalog FILE      puts another list, as TOML, over it; docs/catalogs/ has examples
python setup_subscriptions.py --catalog default   puts the default list over it

It brings the tables up to date first, and puts members who have no subscription on the Free plan.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from app import create_app
from services import catalogues, payments, price_list, subscriptions
from services.errors import DomainError, Invalid
from services.gateways import gateways
from services.yard import migrate


def main() -> int:
    """Carry out what the command line asks for; answers the exit code."""
    parser = argparse.ArgumentParser(
        description="Bring a price list into the database and to the payment gateway. Without --catalog the list that is "
        "there stays, with what admins changed in the panel."
    )
    parser.add_argument(
        "--catalog", help="a TOML file with another price list, or `default`; it replaces what is there"
    )
    given = parser.parse_args()
    try:
        catalogue = _catalogue(given.catalog)
        with create_app().app_context():
            migrate()
            done = price_list.install(catalogue) if catalogue else price_list.complete()
            _report(done, {f"{what} at the gateway": names for what, names in payments.publish().items()})
            _summary(subscriptions.put_on_free())
    except DomainError as error:
        print(f"The price list was not changed: {error}", file=sys.stderr)
        return 1
    return 0


def _catalogue(name: str | None) -> dict[str, Any] | None:
    """The list to put over what is there, if one is named. Raises Invalid."""
    if name is None:
        return None
    try:
        return catalogues.DEFAULT if name == "default" else catalogues.read(Path(name))
    except OSError as error:
        raise Invalid(f"{name} cannot be read: {error.strerror}.") from None


def _report(*done: dict[str, list[str]]) -> None:
    lines = [f"{what}: {', '.join(names)}" for part in done for what, names in part.items() if names]
    print("\n".join(lines) or "Everything was as it should be.")


def _summary(moved: int) -> None:
    print("\nPlans")
    for plan in price_list.plans():
        yearly = f", ${plan.yearly_cents / 100:,.2f} a year" if plan.yearly_cents else ""
        price = f"${plan.price_cents / 100:,.2f} a month{yearly}" if plan.is_paid else "free"
        print(f"  {plan.display_name:<14} {price}, {plan.monthly_credits:,} credits a month")
    print("Packs")
    for pack in price_list.packs():
        print(f"  {pack.credits:,} credits for ${pack.price_cents / 100:,.2f}")
    print(f"Members put on the free plan: {moved}")
    print(f"Recurring revenue: ${subscriptions.recurring_cents() / 100:,.2f} a month")
    print(f"Payments: {gateways().payments.name}")


if __name__ == "__main__":
    sys.exit(main())
