"""The flows of report and drift write the pages of the commands, and artifacts."""

from __future__ import annotations

from pathlib import Path

from pictures import MODEL

import tagger
from tagger.errors import DriftFound


def test_the_report_and_drift_flows_write_pages_and_artifacts(photos: Path, tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    from flows.drift import drift
    from flows.report import report

    for _ in range(2):
        tagger.tag(photos, MODEL, tmp_path / "out", tagger.TagConfig(redo=True))
    made = report(str(tmp_path / "out"), str(tmp_path / "r.html"), return_state=True)
    assert "6 of 6 files have been tagged" in made.message
    compared = drift(str(tmp_path / "out"), out=str(tmp_path / "d.html"), fail_over=0.1, return_state=True)
    assert "Too few images" in compared.message
    for key, page in (("report", "r.html"), ("drift", "d.html")):
        assert (tmp_path / page).exists()
        artifact = Artifact.get(key)
        assert artifact is not None
        assert str(artifact.data).startswith("# ")
        assert "![" not in str(artifact.data)


def test_drift_over_the_limit_is_a_failed_run(tmp_path: Path) -> None:
    from test_drift import rows_of, write_run

    from flows.drift import drift

    for run, status in ((1, "ok"), (2, "truncated")):
        write_run(tmp_path / "out", run, rows_of(100, run, status=status))
    state = drift(str(tmp_path / "out"), out=str(tmp_path / "d.html"), fail_over=0.5, return_state=True)
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), DriftFound)
