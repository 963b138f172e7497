"""Calls about trainings, iterations and their performance."""

from __future__ import annotations

from tagger import checkpoint
from tagger.checkpoint.info import Json
from tagger.serving.batching import Batcher
from tagger.serving.customvision import Target
from tagger.serving.errors import Refused
from tagger.serving.projects.calls import MAX_TEXT, Answer, Call, checked_choice, checked_ids, checked_text, handles
from tagger.serving.projects.exports import PLATFORMS
from tagger.serving.projects.project import COMPLETED, DONE, EXPORTING, EXPORTS, ITERATIONS, TRAINING, Project, now

MAX_HOURS = 1000
TRAINING_TYPES = ("Regular", "Advanced")
_SHOWN = (
    "id", "name", "status", "created", "lastModified", "trainedAt", "domainId", "classificationType", "trainingType",
    "reservedBudgetInHours", "trainingTimeInMinutes", "publishName", "originalPublishResourceId",
)  # fmt: skip


@handles("POST", "projects/{project}/train")
def train_project(call: Call) -> Answer:
    """Start a training."""
    project, kind = call.project, checked_choice(call.query.get("trainingtype"), TRAINING_TYPES, "trainingType")
    hours = call.number("reservedBudgetInHours", 0, MAX_HOURS)
    selected = checked_ids(call.json().get("selectedtags"), "selectedTags", 10_000)
    iteration = call.state.trainings.start(project, kind, hours, selected, call.flag("forceTrain"))
    return _view(project, iteration)


@handles("GET", "projects/{project}/iterations")
def get_iterations(call: Call) -> Answer:
    """List the iterations."""
    return [_view(call.project, each) for each in call.project.journal.of(ITERATIONS).values()]


@handles("GET", "projects/{project}/iterations/{iteration}")
def get_iteration(call: Call) -> Answer:
    """Describe an iteration."""
    return _view(call.project, _iteration(call))


@handles("PATCH", "projects/{project}/iterations/{iteration}")
def update_iteration(call: Call) -> Answer:
    """Rename an iteration."""
    project, name = call.project, checked_text(call.json().get("name"), "name")
    with project.lock:
        iteration = _iteration(call) | {"name": name, "lastModified": now()}
        project.write((ITERATIONS, iteration["id"], iteration))
    return _view(project, iteration)


@handles("DELETE", "projects/{project}/iterations/{iteration}")
def delete_iteration(call: Call) -> Answer:
    """Delete an iteration that is not published."""
    project = call.project
    with project.lock:
        iteration = _iteration(call)
        if iteration["status"] == TRAINING:
            raise Refused(409, "BadRequestTrainingAlreadyInProgress", "the iteration is being trained")
        if (export := project.journal.get(EXPORTS, iteration["id"])) and export["status"] == EXPORTING:
            raise Refused(409, "BadRequestExportAlreadyInProgress", "the iteration is being exported")
        if iteration.get("publishName"):
            raise Refused(400, "BadRequestIterationIsPublished", "unpublish the iteration first")
        project.write((ITERATIONS, iteration["id"], None), (EXPORTS, iteration["id"], None))
    project.remove_iteration(iteration["id"])
    return None


@handles("POST", "projects/{project}/iterations/{iteration}/publish")
def publish_iteration(call: Call) -> Answer:
    """Publish an iteration under a name that predictions use."""
    project, name = call.project, call.text("publishName")
    resource = call.text("predictionId", "unnamed", MAX_TEXT)
    call.batcher(trained(call))
    with project.lock:
        iteration = trained(call)
        others = [each for each in project.journal.of(ITERATIONS).values() if each.get("publishName") == name]
        taken = [each for each in others if each["id"] != iteration["id"]]
        if taken and not call.flag("overwrite"):
            raise Refused(400, "BadRequestInvalidPublishName", f"another iteration is published as {name!r}")
        published = iteration | {"publishName": name, "originalPublishResourceId": resource, "lastModified": now()}
        changes = [each | {"publishName": None} for each in taken] + [published]
        project.write(*((ITERATIONS, each["id"], each) for each in changes))
    return True


@handles("DELETE", "projects/{project}/iterations/{iteration}/publish")
def unpublish_iteration(call: Call) -> Answer:
    """Unpublish an iteration."""
    project = call.project
    with project.lock:
        iteration = _iteration(call)
        if not iteration.get("publishName"):
            raise Refused(400, "BadRequestIterationNotPublished", "the iteration is not published")
        project.write((ITERATIONS, iteration["id"], iteration | {"publishName": None, "lastModified": now()}))
    return None


@handles("GET", "projects/{project}/iterations/{iteration}/performance")
def get_iteration_performance(call: Call) -> Answer:
    """Return precision, recall and average precision on the test images, or without any on the validation images."""
    iteration = trained(call)
    found = checkpoint.describe(str(call.project.checkpoint(iteration["id"]))).metrics
    metrics = found.get("test") or found["val"]
    ids = {name: id for id, name in iteration["tags"].items()}
    tags = [{"id": ids.get(tag["tag"]), "name": tag["tag"], **_figures(tag)} for tag in metrics["tags"]]
    known = {name: [tag[name] for tag in tags if tag[name] is not None] for name in ("precision", "recall")}
    return {
        "perTagPerformance": tags,
        **{name: sum(values) / len(values) if values else 0.0 for name, values in known.items()},
        "precisionStdDeviation": 0.0,
        "recallStdDeviation": 0.0,
        "averagePrecision": metrics["mean_average_precision"] or 0.0,
    }


@handles("POST", "projects/{project}/iterations/{iteration}/export")
def export_iteration(call: Call) -> Answer:
    """Start the export of an iteration."""
    iteration, platform = trained(call), call.text("platform")
    if platform.upper() not in PLATFORMS:
        raise Refused(
            400, "BadRequestExportValidationFailed",
            f"platform {platform[:80]!r}: iterations are exported to {', '.join(PLATFORMS)}",
        )  # fmt: skip
    record = call.state.exports.start(call.project, iteration["id"], call.query.get("flavor"))
    return _export(call, iteration["id"], record)


@handles("GET", "projects/{project}/iterations/{iteration}/export")
def get_exports(call: Call) -> Answer:
    """List the exports of an iteration."""
    id = _iteration(call)["id"]
    record = call.project.journal.get(EXPORTS, id)
    return [_export(call, id, record)] if record else []


def target_of(iteration: Json, batcher: Batcher) -> Target:
    """Return the model of an iteration with the ids of its tags."""
    return Target(batcher, iteration["id"], {name: id for id, name in iteration["tags"].items()})


def published(project: Project, name: str) -> Json:
    """Return the iteration that is published under a name; raises Refused."""
    for iteration in project.journal.of(ITERATIONS).values():
        if iteration.get("publishName") == name:
            return iteration
    raise Refused(404, "NotFoundIteration", "Invalid iteration")


def _iteration(call: Call) -> Json:
    return call.project.record(ITERATIONS, call.ids["iteration"])


def trained(call: Call, id: str | None = None) -> Json:
    """Return an iteration, by default the one in the path; raises Refused unless its training is completed."""
    iteration = call.project.record(ITERATIONS, id or call.ids["iteration"])
    if iteration["status"] != COMPLETED:
        raise Refused(400, "BadRequestIterationIsNotTrained", f"the iteration is not trained ({iteration['status']})")
    return iteration


def _figures(tag: Json) -> Json:
    """Return a tag's metrics; half of a 95% interval is 1.96 standard deviations."""
    found: Json = {"averagePrecision": tag["average_precision"] or 0.0}
    for name in ("precision", "recall"):
        low, high = tag[f"{name}_interval"]
        known = tag[name] is not None
        found |= {name: tag[name], f"{name}StdDeviation": (high - low) / (2 * 1.96) if known else None}
    return found


def _view(project: Project, iteration: Json) -> Json:
    shown = {name: iteration.get(name) for name in _SHOWN}
    to = PLATFORMS if iteration["status"] == COMPLETED else ()
    return {
        **shown,
        "projectId": project.id,
        "exportable": bool(to),
        "exportableTo": [*to],
        "customBaseModelInfo": None,
        "trainingErrorDetails": iteration.get("error"),
    }


def _export(call: Call, id: str, record: Json) -> Json:
    shown = {name: record[name] for name in ("platform", "flavor", "status")}
    link = call.link(EXPORTS, id) if record["status"] == DONE else None
    return {**shown, "downloadUri": link, "newerVersionAvailable": False}
