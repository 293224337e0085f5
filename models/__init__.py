"""What is: typed tables, and facts that need one row only. Importing this package makes every table known."""

from models import (
    accounts,
    admin,
    agents,
    api_keys,
    credits,
    datasets,
    idempotency,
    model_versions,
    notices,
    payments,
    plans,
    simulated_payments,
    subscriptions,
    training_jobs,
    uploads,
    usage,
)

__all__ = [
    "accounts",
    "admin",
    "agents",
    "api_keys",
    "credits",
    "datasets",
    "idempotency",
    "model_versions",
    "notices",
    "payments",
    "plans",
    "simulated_payments",
    "subscriptions",
    "training_jobs",
    "uploads",
    "usage",
]
