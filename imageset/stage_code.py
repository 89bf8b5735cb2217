"""The code that each DVC stage depends on, and one digest over it.

`STAGE_CODE` is the only table of this kind: dvc.yaml lists the same folders and files (a test compares them), and
an unfinished training and a sweep resume only while the digest of the stage `train` stays the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PACKAGES_DIR = Path(__file__).resolve().parents[1]  # holds imageset/ and lightning_modules/
CODE_SUFFIXES = (".css", ".html", ".json", ".py")

_MODEL_CODE = (
    "imageset/decoding/spec.py",
    "imageset/labels.py",
    "imageset/params.py",
    "imageset/store",
    "imageset/utils/arrow.py",
    "imageset/utils/atomic_write.py",
    "lightning_modules/bundle.py",
    "lightning_modules/calibration",
    "lightning_modules/networks",
    "lightning_modules/project_code/code_copy.py",
    "lightning_modules/project_code/modules.py",
)
STAGE_CODE: dict[str, tuple[str, ...]] = {
    "normalize": (
        "imageset/decoding",
        "imageset/executors",
        "imageset/html/page.py",
        "imageset/html/style.css",
        "imageset/html/templates/base.html",
        "imageset/html/templates/dataset.html",
        "imageset/labels.py",
        "imageset/normalize",
        "imageset/params.py",
        "imageset/raw/label_log.py",
        "imageset/raw/records.py",
        "imageset/raw/shards.py",
        "imageset/raw/source_file.py",
        "imageset/rejections.py",
        "imageset/splits",
        "imageset/store",
        "imageset/utils/arrow.py",
        "imageset/utils/atomic_write.py",
        "imageset/utils/integrity",
        "imageset/utils/memory.py",
        "imageset/utils/timestamps.py",
    ),
    "train": (
        *_MODEL_CODE,
        "imageset/executors/base.py",
        "imageset/executors/limits.py",
        "imageset/rejections.py",
        "imageset/utils/memory.py",
        "lightning_modules/augmentation.py",
        "lightning_modules/classifier.py",
        "lightning_modules/datamodule.py",
        "lightning_modules/features",
        "lightning_modules/lr_schedules.py",
        "lightning_modules/scoring.py",
        "lightning_modules/tracking/model_download.py",
        "lightning_modules/tracking/provenance.py",
        "lightning_modules/training",
    ),
    "evaluate": (
        *_MODEL_CODE,
        "imageset/html/images.py",
        "lightning_modules/augmentation.py",
        "lightning_modules/classifier.py",
        "lightning_modules/datamodule.py",
        "lightning_modules/evaluation",
        "lightning_modules/features/out_of_fold.py",
        "lightning_modules/lr_schedules.py",
        "lightning_modules/training/callbacks.py",
        "lightning_modules/training/cli.py",
        "lightning_modules/training/distributed.py",
    ),
    "explain": (
        *_MODEL_CODE,
        "imageset/html/images.py",
        "imageset/html/page.py",
        "imageset/html/style.css",
        "imageset/html/templates/base.html",
        "imageset/html/templates/explain.html",
        "imageset/html/templates/macros.html",
        "imageset/rejections.py",
        "lightning_modules/explain",
    ),
}


def list_stage_code(stage: str) -> list[Path]:
    """List the files of a stage's code, relative to the folder that holds the packages, in sorted order.

    Raises:
        KeyError: `stage` is not in `STAGE_CODE`.
    """
    files: set[Path] = set()
    for name in STAGE_CODE[stage]:
        root = PACKAGES_DIR / name
        paths = root.rglob("*") if root.is_dir() else [root]
        files |= {path.relative_to(PACKAGES_DIR) for path in paths if path.suffix in CODE_SUFFIXES}
    return sorted(files)


def digest_stage_code(stage: str) -> str:
    """Return the SHA-256, in hexadecimal digits, of the names and contents of a stage's code."""
    digest = hashlib.sha256()
    for path in list_stage_code(stage):
        data = (PACKAGES_DIR / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()
