"""The deployments of prefect.yaml: read, and checked when they are deployed."""

from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.flows import load_flow_from_entrypoint

from tagger.errors import UsageError, first_line

FILE = Path("prefect.yaml")


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """Return the deployments of a prefect.yaml; raises UsageError if it is not there or has none."""
    if not file.exists():
        raise UsageError(f"{file.absolute()}: not found; start this in the folder that has prefect.yaml")
    found: list[dict[str, Any]] = (yaml.safe_load(file.read_text()) or {}).get("deployments") or []
    if not found:
        raise UsageError(f"{file.absolute()}: has no deployments")
    return found


def check() -> None:
    """Refuse deployments whose flow would refuse their parameters, before any of them is deployed.

    A build step of prefect.yaml: Prefect itself checks parameters only when a deployment is changed or run by hand.
    """
    for deployment in read():
        flow, given = load_flow_from_entrypoint(deployment["entrypoint"]), deployment.get("parameters") or {}
        try:
            _check(flow, given)
        except (ParameterTypeError, SignatureMismatchError) as error:
            raise UsageError(f"prefect.yaml: {flow.name}/{deployment['name']}: {_text(error)}") from error


def _check(flow: Flow[..., Any], given: dict[str, Any]) -> None:
    """Validate parameters; those that are required and not given are asked for when the flow is run by hand."""
    placeholders = {name: given.get(name, "-") for name in flow.parameters.required}
    flow.validate_parameters({**placeholders, **given})


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) if isinstance(error, ParameterTypeError) else first_line(error)
