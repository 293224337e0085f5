"""Put the price list into the database and to the payment gateway. Safe to run again: it changes only what differs.

python setup_subscriptions.py                     the default price list
python setup_subscriptions.py --catalog FILE      another one, as TOML; docs/catalogs/ has examples

It brings the tables up to date first, and puts members who have no subscription on the Free plan.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from app import create_app
from services import catalogues, payments, price_list, subscriptions
from services.errors import DomainError
from services.gateways import gateways
from services.yard import migrate


def main() -> int:
    """Install the list that the command line names; answers the exit code."""
    parser = argparse.ArgumentParser(description="Put the price list into the database and to the payment gateway.")
    parser.add_argument("--catalog", type=Path, help="a TOML file with another price list")
    given = parser.parse_args()
    try:
        catalogue = catalogues.read(given.catalog) if given.catalog else catalogues.DEFAULT
        with create_app().app_context():
            migrate()
            _report(price_list.install(catalogue), {f"{k} at the gateway": v for k, v in payments.publish().items()})
            _summary(subscriptions.put_on_free())
    except (OSError, DomainError) as error:
        print(f"The price list was not changed: {error}", file=sys.stderr)
        return 1
    return 0


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
