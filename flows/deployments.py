"""Read the deployments of prefect.yaml, and check them before they are deployed or served."""

import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint

from tagger.errors import UsageError

FILE = Path("prefect.yaml")
KEYS = frozenset(
    [
        "name", "version", "version_type", "tags", "description", "schedule", "schedules", "paused", "flow_name",
        "entrypoint", "parameters", "enforce_parameter_schema", "concurrency_limit", "build", "push", "pull",
        "work_pool", "triggers", "sla",
    ]
)  # fmt: skip
"""Keys of a deployment that Prefect reads; it silently ignores others."""


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """Return the deployments of a prefect.yaml; raises UsageError if the file is missing or has none."""
    if not file.exists():
        raise UsageError(f"{file.absolute()}: not found; run this command in the folder of prefect.yaml")
    found: list[dict[str, Any]] = (yaml.safe_load(file.read_text()) or {}).get("deployments") or []
    if not found:
        raise UsageError(f"{file.absolute()}: has no deployments")
    return found


def check() -> None:
    """Raise UsageError for keys that Prefect ignores, and for parameters that a flow does not accept.

    Prefect itself checks parameters only when a deployment is changed or run by hand: a scheduled run would fail.
    """
    for deployment in read():
        place = f"prefect.yaml: deployment {deployment.get('name')}"
        if unknown := deployment.keys() - KEYS:
            raise UsageError(f"{place}: unknown key {', '.join(sorted(unknown))}")
        _check(load_flow_from_entrypoint(deployment["entrypoint"]), deployment.get("parameters") or {}, place)


def check_parameters() -> dict[str, str]:
    """Run check() as a build step of prefect.yaml; exit with a one-line error, or return the folder of the file."""
    try:
        check()
    except UsageError as error:
        sys.exit(f"tagger: {error}")
    return {"folder": str(FILE.absolute().parent)}


def _check(flow: Flow[..., Any], given: dict[str, Any], place: str) -> None:
    if unknown := given.keys() - flow.parameters.properties.keys():
        raise UsageError(f"{place}: {flow.name} has no parameter {', '.join(sorted(unknown))}")
    if missing := [name for name in flow.parameters.required if name not in given]:
        raise UsageError(f"{place}: {flow.name} needs the parameter {', '.join(missing)}")
    try:
        flow.validate_parameters(given)
    except ParameterTypeError as error:
        why = " ".join(str(error).partition(":")[2].split()).removeprefix("- ")
        raise UsageError(f"{place}: parameters of {flow.name}: {why}") from error
