"""Prefect flows for the tagger commands, with schedules, retries and a UI. The only code that imports Prefect."""

import os

# Set before Prefect is imported, unless the user has set them: no telemetry, and time for a temporary server to start.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
