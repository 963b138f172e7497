"""Merge the small parts of a results table, as a Prefect flow: `python -m flows.compact RESULTS`."""

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.names import run_name
from flows.progress import progress
from flows.retries import retried
from tagger.options import Grace, Results
from tagger.tagging import compact as compaction
from tagger.tagging.compact import GRACE, Compacted


@retried(task_run_name="merge")
def merge(results: str, grace: float) -> Compacted:
    """Merge the parts; a retry merges the remaining ones."""
    with progress(f"merging the parts of {results}"):
        return compaction.compact(results, grace)


@flow(name="compact", flow_run_name=run_name, persist_result=False)
def compact(results: Results, grace: Grace = GRACE) -> State[dict[str, object]]:
    """Merge small part files into large ones; queries and runs can continue meanwhile."""
    done = merge(results, grace)
    return Completed(message=done.text(), data=vars(done))


if __name__ == "__main__":
    command.main(compact)
