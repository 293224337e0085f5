"""Set before torch is imported: beside other test processes its threads must not spin (see agent.recipes.load)."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
