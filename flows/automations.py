"""Create two automations on the Prefect server: `python -m flows.automations [--webhook URL]`.

1. A run that stops sending heartbeats, because its process was killed together with the worker, is marked as crashed.
2. With --webhook, each run that fails or crashes is posted to a URL, in the format of Slack, Mattermost and ntfy.

Existing automations of these names are replaced.
"""

from datetime import timedelta
from typing import Annotated

import typer
from prefect.automations import Automation, CallWebhook, ChangeFlowRunState, EventTrigger, Posture
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.types import SecretDict
from pydantic import SecretStr

from flows import command

ZOMBIES, FAILURES = "tagger: mark runs without heartbeat as crashed", "tagger: report runs that fail"
BLOCK = "tagger-failures"
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed")}
TEXT = 'flow_run.name ~ " is " ~ flow_run.state.name ~ ": " ~ (flow_run.state.message or "")'
PAYLOAD = '{"text": {{ (' + TEXT + ") | truncate(900) | tojson }}}"


def automations(
    webhook: Annotated[
        str | None, typer.Option(help="URL to which failed and crashed runs are posted as JSON.")
    ] = None,
    silence: Annotated[
        int, typer.Option(help="Seconds without a heartbeat after which a run is marked as crashed.", min=90)
    ] = 600,
) -> None:
    """Create the automations on the server."""
    command.need_server()
    _replace(mark_zombies(timedelta(seconds=silence)))
    print(f"created: {ZOMBIES}")
    if webhook:
        block = Webhook(url=SecretStr(webhook), headers=SecretDict({"Content-Type": "application/json"}))
        _replace(report_failures(block))
        print(f"created: {FAILURES}")


def mark_zombies(silence: timedelta) -> Automation:
    """Return the automation that marks runs without heartbeat as crashed, which also frees their concurrency slot."""
    heartbeat = "prefect.flow-run.heartbeat"
    return Automation(
        name=ZOMBIES,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={heartbeat},
            expect={heartbeat, *_ENDED},
            match=_RUNS,  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="No heartbeat: the process is gone.", force=False
            )
        ],
    )


def report_failures(webhook: Webhook) -> Automation:
    """Return the automation that posts failed runs to a webhook; the URL is stored in a block, as a secret."""
    block = webhook.save(BLOCK, overwrite=True)
    return Automation(
        name=FAILURES,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.TimedOut", "prefect.flow-run.Crashed"},
            match=_RUNS,  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=block, payload=PAYLOAD)],  # type: ignore[arg-type]
    )


def _replace(automation: Automation) -> None:
    with get_client(sync_client=True) as client:
        for found in client.read_automations_by_name(automation.name):
            client.delete_automation(found.id)
    automation.create()


if __name__ == "__main__":
    command.run(automations, "automations")
