"""Calls about domains, projects and tags."""

from __future__ import annotations

from tagger.checkpoint.info import Json
from tagger.serving.errors import Refused
from tagger.serving.projects.calls import MAX_TEXT, Answer, Call, checked_choice, checked_text, handles
from tagger.serving.projects.project import IMAGES, ITERATIONS, NEGATIVE, PROJECT, TAGS, Project, canonical, new_id, now

DOMAINS = {
    "ee85a74c-405e-4adc-bb47-ffa8ca0c9f31": "General",
    "a8e3c40f-fb4a-466f-832a-5e457ae4a344": "General [A1]",
    "2e37d7fb-3a54-486a-b4d6-cfc369af0018": "General [A2]",
    "c151d5b5-dd07-472a-acc8-15d29dea8518": "Food",
    "ca455789-012d-4b50-9fec-5bb63841c793": "Landmarks",
    "b30a91ae-e3c1-4f73-a81e-c270bff27c39": "Retail",
    "0732100f-1a38-4e49-a514-c9b44c697ab5": "General (compact)",
    "a1db07ca-a19a-4830-bae8-e004a42dc863": "General (compact) [S1]",
}
"""Custom Vision's domains for classification; training is the same for all of them."""
DEFAULT_DOMAIN = next(iter(DOMAINS))
KINDS = ("Multiclass", "Multilabel")
TAG_TYPES = ("Regular", NEGATIVE, "GeneralProduct")
MAX_TAGS = 10_000


@handles("GET", "domains")
def get_domains(call: Call) -> Answer:
    """List the domains."""
    return [_domain(id) for id in DOMAINS]


@handles("GET", "domains/{domain}")
def get_domain(call: Call) -> Answer:
    """Describe a domain."""
    return _domain(_known_domain(call.ids["domain"]))


@handles("GET", "projects")
def get_projects(call: Call) -> Answer:
    """List the projects."""
    return [_view(project) for project in call.state.projects.all()]


@handles("POST", "projects")
def create_project(call: Call) -> Answer:
    """Create a project."""
    platforms = [name for name in call.query.get("targetexportplatforms", "").split(",") if name]
    facts = {
        "name": call.text("name"),
        "description": _description(call.query.get("description")),
        "domainId": _known_domain(call.query.get("domainid") or DEFAULT_DOMAIN),
        "classificationType": _classification(call.query.get("classificationtype")),
        "targetExportPlatforms": platforms[:20],
    }
    return _view(call.state.projects.create(facts))


@handles("GET", "projects/{project}")
def get_project(call: Call) -> Answer:
    """Describe a project."""
    return _view(call.project)


@handles("PATCH", "projects/{project}")
def update_project(call: Call) -> Answer:
    """Change name, description, domain or kind of a project."""
    project, given = call.project, call.json()
    with call.state.projects.lock, project.lock:
        facts = project.facts | _changes(given)
        call.state.projects.check_name(facts["name"], project)
        several = any(len(image["tags"]) > 1 for image in project.journal.of(IMAGES).values())
        if several and facts["classificationType"] == KINDS[0]:
            raise Refused(400, "BadRequestImageTags", "images have several tags; the project must stay Multilabel")
        project.write((PROJECT, project.id, facts | {"lastModified": now()}))
    return _view(project)


@handles("DELETE", "projects/{project}")
def delete_project(call: Call) -> Answer:
    """Delete a project without published iterations."""
    project = call.project
    if any(each.get("publishName") for each in project.journal.of(ITERATIONS).values()):
        raise Refused(400, "BadRequestIterationIsPublished", "unpublish the iterations of the project first")
    if call.state.trainings.is_training(project):
        raise Refused(409, "BadRequestTrainingAlreadyInProgress", "the project is being trained; delete it afterwards")
    call.state.projects.delete(project)
    return None


@handles("GET", "projects/{project}/tags")
def get_tags(call: Call) -> Answer:
    """List the tags with their numbers of images."""
    project, counts = call.project, call.project.tag_counts()
    return [{**tag, "imageCount": counts[id]} for id, tag in project.journal.of(TAGS).items()]


@handles("POST", "projects/{project}/tags")
def create_tag(call: Call) -> Answer:
    """Create a tag."""
    project = call.project
    tag: Json = {
        "id": new_id(),
        "name": call.text("name"),
        "description": _description(call.query.get("description")),
        "type": _tag_type(call.query.get("type")),
    }
    with project.lock:
        if len(project.journal.of(TAGS)) >= MAX_TAGS:
            raise Refused(400, "BadRequestExceedTagPerProjectLimit", f"a project can have at most {MAX_TAGS:,} tags")
        _check_tag(project, tag)
        project.write((TAGS, tag["id"], tag))
    return {**tag, "imageCount": 0}


@handles("GET", "projects/{project}/tags/{tag}")
def get_tag(call: Call) -> Answer:
    """Describe a tag."""
    tag = call.project.record(TAGS, call.ids["tag"])
    return {**tag, "imageCount": call.project.tag_counts()[tag["id"]]}


@handles("PATCH", "projects/{project}/tags/{tag}")
def update_tag(call: Call) -> Answer:
    """Change name, description or type of a tag."""
    project, given = call.project, call.json()
    with project.lock:
        tag = dict(project.record(TAGS, call.ids["tag"]))
        if given.get("name"):
            tag["name"] = checked_text(given["name"], "name")
        if "description" in given:
            tag["description"] = _description(given["description"])
        if given.get("type"):
            tag["type"] = _tag_type(given["type"])
        _check_tag(project, tag)
        project.write((TAGS, tag["id"], tag))
    return {**tag, "imageCount": project.tag_counts()[tag["id"]]}


@handles("DELETE", "projects/{project}/tags/{tag}")
def delete_tag(call: Call) -> Answer:
    """Delete a tag, and remove it from its images."""
    project = call.project
    with project.lock:
        id = project.record(TAGS, call.ids["tag"])["id"]
        having = [image for image in project.journal.of(IMAGES).values() if id in image["tags"]]
        without = [image | {"tags": {tag: at for tag, at in image["tags"].items() if tag != id}} for image in having]
        project.write(*((IMAGES, image["id"], image) for image in without), (TAGS, id, None))
    return None


def _changes(given: Json) -> Json:
    """Return the changes that a Project in the body of a call makes."""
    settings = given.get("settings") or {}
    if not isinstance(settings, dict):
        raise Refused(400, "BadRequest", "settings must be an object")
    changes: Json = {}
    if given.get("name"):
        changes["name"] = checked_text(given["name"], "name")
    if "description" in given:
        changes["description"] = _description(given["description"])
    if settings.get("domainid"):
        changes["domainId"] = _known_domain(settings["domainid"])
    if settings.get("classificationtype"):
        changes["classificationType"] = _classification(settings["classificationtype"])
    return changes


def _check_tag(project: Project, tag: Json) -> None:
    others = [each for each in project.journal.of(TAGS).values() if each["id"] != tag["id"]]
    if any(each["name"] == tag["name"] for each in others):
        raise Refused(400, "BadRequestTagNameNotUnique", f"a tag named {tag['name']!r} already exists")
    if tag["type"] == NEGATIVE and any(each["type"] == NEGATIVE for each in others):
        raise Refused(400, "BadRequestMultipleNegativeTag", "the project already has a negative tag")


def _view(project: Project) -> Json:
    facts = project.facts
    settings = {
        "domainId": facts["domainId"],
        "classificationType": facts["classificationType"],
        "targetExportPlatforms": facts["targetExportPlatforms"],
        "useNegativeSet": True,
        "detectionParameters": None,
        "imageProcessingSettings": {"augmentationMethods": {}},
    }
    shown = {name: facts[name] for name in ("id", "name", "description", "created", "lastModified")}
    return {**shown, "settings": settings, "thumbnailUri": None, "drModeEnabled": False, "status": "Succeeded"}


def _domain(id: str) -> Json:
    name = DOMAINS[id]
    return {
        "id": id, "name": name, "type": "Classification", "exportable": "compact" in name, "enabled": True,
        "exportablePlatforms": [], "modelInformation": None,
    }  # fmt: skip


def _known_domain(id: object) -> str:
    if not isinstance(id, str) or (known := canonical(id)) not in DOMAINS:
        raise Refused(404, "NotFoundDomain", "Invalid domain id; GET .../domains lists those of classification")
    return known


def _description(value: object) -> str | None:
    return checked_text(value, "description", MAX_TEXT) if value else None


def _classification(value: object) -> str:
    return checked_choice(value, KINDS, "classificationType", "BadRequestProjectUnknownClassification")


def _tag_type(value: object) -> str:
    return checked_choice(value, TAG_TYPES, "type", "BadRequestTagType")
