"""optuna-dashboard reads the database of a study as it is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from engine_bench import Bench

from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.search.databases import open_storage, sqlite_url
from autocompress.search.samplers.make import make_sampler
from autocompress.search.storage import create_study
from autocompress.tasks.classification.metric import ACCURACY

optuna_dashboard: Any = pytest.importorskip("optuna_dashboard")


def _get(application: Any, path: str) -> Any:
    """What the dashboard's own server answers to a request of its page."""
    told: list[str] = []
    environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "localhost", "SERVER_PORT": "80",
                   "QUERY_STRING": "after=0", "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http",
                   "wsgi.errors": io.StringIO()}
    body = b"".join(application(environment, lambda status, headers, *_: told.append(status)))
    assert told[0].startswith("200"), (path, told, body[:500])
    return json.loads(body)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", ["study.db", "study.log"])
def test_the_dashboard_shows_a_study_that_was_searched(table: LayerTable, tmp_path: Path, storage: str) -> None:
    path = tmp_path / storage
    url = sqlite_url(path) if storage.endswith("db") else str(path)
    study = create_study(open_storage(url), "mine", make_sampler("random", 0), {}, objectives(ACCURACY))
    everyone = Bench(table, study=study, trials=6).run()
    application = optuna_dashboard.wsgi(open_storage(url, extend=False))
    (summary,) = _get(application, "/api/studies")["study_summaries"]
    assert summary["study_name"] == "mine"
    shown = _get(application, f"/api/studies/{summary['study_id']}")
    assert [trial["number"] for trial in shown["trials"]] == [c.trial for c in everyone]
    values = [trial["values"] for trial in shown["trials"] if trial["state"] == "Complete"]
    assert values and all(len(row) == 3 for row in values) and len(shown["trials"][0]["params"]) > 3
