"""What a search finds out after it has exported, what each technique bought, put into the artefact's manifest and card.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import msgspec

from autocompress.artifact.card import Running, model_card
from autocompress.artifact.folder import changed_files, read_manifest
from autocompress.artifact.manifest import CARD, MANIFEST
from autocompress.core.files import write_together
from autocompress.study.folder import Description
from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)


def tell_attribution(bench: Workbench, folder: Path, description: Description) -> Description:
    """Write manifest and card of a study's artefact anew, with its attribution; the description with their hashes.

    Nothing is done where the artefact is of another trial, was changed, or says it already. A disk that gives out
    leaves it as it was.
    """
    facts, attribution = description.artifact, description.attribution
    if facts is None or attribution is None or facts.get("trial") != attribution.trial or changed_files(folder):
        return description
    manifest, told = read_manifest(folder), json.loads(msgspec.json.encode(attribution))
    if manifest.get("attribution") == told or manifest.get("plan_fingerprint") != attribution.plan_fingerprint:
        return description
    file_format = bench.network.writer.format
    manifest["attribution"] = told
    card = model_card(manifest, bench.network.task.name, Running(
        file_format.runtime, file_format.converter, file_format.snippet), description.metric).encode()
    manifest["files"][CARD] = {"sha256": hashlib.sha256(card).hexdigest(), "bytes": len(card)}
    text = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    try:
        write_together(folder, {MANIFEST: text, CARD: card})
    except OSError as error:
        log.warning("%s does not tell what each technique bought: %s", folder / CARD, error.strerror)
        return description
    hashes = {MANIFEST: hashlib.sha256(text).hexdigest(), CARD: manifest["files"][CARD]["sha256"]}
    return msgspec.structs.replace(description, artifact=facts | {"sha256": facts["sha256"] | hashes})
