"""Paths inside a project, relative to its folder."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"  # the files that `convoy init` writes, and the presets

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
MANIFEST = NORMALIZED / "dataset.json"
CLASSIFIER = Path("data/models/classifier")
REPORT = Path("data/models/report")
METRICS = Path("metrics.json")
PREDICTIONS = Path("data/predictions")
INBOX = Path("data/inbox")
PARAMS = Path("params.yaml")
CACHE = Path(".cache")
FEATURES = CACHE / "features"  # of images by frozen networks
PROJECT_LOCK = CACHE / "convoy.lock"
# The last full check: {"time": ISO 8601, "findings": {subject: [problem, ...]}}
FULL_CHECK_FILE = CACHE / "full_check.json"
