"""The library's verbs as Prefect flows: schedules, retries, a UI. The only code that imports Prefect."""

import os

# Set before Prefect is imported, unless the user did: no telemetry, and enough time for the temporary server to start.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
