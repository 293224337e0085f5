"""Put the price list into the database. Safe to run again: it changes only what differs.

python setup_subscriptions.py                     the default price list
python setup_subscriptions.py --catalog FILE      another one, as JSON in the shape of services/price_list.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from app import create_app
from services import price_list
from services.errors import Invalid


def main() -> int:
    """Install the list that the command line names; answers the exit code."""
    parser = argparse.ArgumentParser(description="Put the price list into the database.")
    parser.add_argument("--catalog", type=Path, help="a JSON file with another price list")
    given = parser.parse_args()
    try:
        catalogue = json.loads(given.catalog.read_text()) if given.catalog else price_list.DEFAULT
        with create_app().app_context():
            done = price_list.install(catalogue)
    except (OSError, ValueError, Invalid) as error:
        print(f"The price list was not changed: {error}", file=sys.stderr)
        return 1
    for what, names in done.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
