"""Names of the MLflow tags and artifacts that Convoy writes to runs."""

from __future__ import annotations

LOCAL_RUN_TAG = "convoy.local_run"

GIT_COMMIT_TAG, PATCH_ARTIFACT = "convoy.git_commit", "source/changes.patch"  # a run's tag and artifact
TRAINING_IMAGES_ARTIFACT = "training/pictures.parquet"  # artifact of the run: what the model learnt from
MODEL_TAG = "convoy.model"  # of a run: the id of its model, once that is whole
PARENT_RUN_TAG, TRIAL_TAG = "mlflow.parentRunId", "convoy.trial"  # tags of a training's run
SWEEP_TAG = "convoy.sweep"  # a tag of a sweep's own run
