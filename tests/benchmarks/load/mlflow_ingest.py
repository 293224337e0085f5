"""MLflow's side of the comparison: for each number on standard input, so many `log_batch` of 1,000 points into SQLite.

Runs in an environment of its own, with MLflow and nothing of this repository.
"""

from __future__ import annotations

import json
import sys
import time

from mlflow import MlflowClient
from mlflow.entities import Metric

NAMES = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
STEPS = 250


def main() -> None:
    """The first argument names the database."""
    client = MlflowClient(f"sqlite:///{sys.argv[1]}")
    experiment = client.create_experiment("ingest")
    print("ready", flush=True)
    for line in sys.stdin:
        calls = int(line)
        run = client.create_run(experiment).info.run_id
        moment = int(time.time() * 1000)
        batches = [
            [Metric(name, n + 1 / step, moment, step) for step in range(1 + call * STEPS, 1 + (call + 1) * STEPS) for n, name in enumerate(NAMES)]
            for call in range(calls)
        ]  # fmt: skip
        began = time.perf_counter()
        for batch in batches:
            client.log_batch(run, metrics=batch)
        seconds = time.perf_counter() - began
        stored = sum(len(client.get_metric_history(run, name)) for name in NAMES)
        print(json.dumps({"points": stored, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
