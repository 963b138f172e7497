"""Serve the deployments of prefect.yaml from one process, each on its schedule: `python -m flows.serve`.

It needs a Prefect server (PREFECT_API_URL), but no work pool and no worker. Each run is a separate process.
"""

from datetime import timedelta
from typing import Annotated, Any

import typer
from prefect import serve as serve_forever
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Schedule

from flows import command, deployments


def serve(limit: Annotated[int, typer.Option(help="Maximum number of concurrent runs.", min=1)] = 2) -> None:
    """Serve every deployment of the prefect.yaml in this folder, until interrupted."""
    command.need_server()
    deployments.check()
    serve_forever(*map(deployment, deployments.read()), limit=limit)


def deployment(declared: dict[str, Any]) -> RunnerDeployment:
    """Return a deployment of prefect.yaml to be served by this process: without pool, pull steps and job variables."""
    same = ("name", "entrypoint", "description", "tags", "parameters")
    limit = declared.get("concurrency_limit")
    return RunnerDeployment.from_entrypoint(
        **{name: declared[name] for name in same if name in declared},
        concurrency_limit=ConcurrencyLimitConfig(**limit) if isinstance(limit, dict) else limit,
        schedules=[_schedule(each) for each in declared.get("schedules") or []],
    )


def _schedule(declared: dict[str, Any]) -> Schedule:
    seconds = declared.get("interval")
    return Schedule(**declared | ({"interval": timedelta(seconds=seconds)} if seconds else {}))


if __name__ == "__main__":
    command.run(serve, "serve")
