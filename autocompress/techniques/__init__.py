"""The pure half of every technique: legal options, checks, and the effect of a step on layer facts."""

from __future__ import annotations

from autocompress.techniques.apply import resolve, untouched
from autocompress.techniques.base import Parts, Technique
from autocompress.techniques.table import TECHNIQUES

__all__ = ["TECHNIQUES", "Parts", "Technique", "resolve", "untouched"]
