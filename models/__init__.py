"""What is: typed tables, and facts that need one row only. Importing this package makes every table known."""

from models import (
    accounts,
    agents,
    api_keys,
    credits,
    datasets,
    idempotency,
    model_versions,
    plans,
    subscriptions,
    training_jobs,
    uploads,
)

__all__ = [
    "accounts",
    "agents",
    "api_keys",
    "credits",
    "datasets",
    "idempotency",
    "model_versions",
    "plans",
    "subscriptions",
    "training_jobs",
    "uploads",
]
