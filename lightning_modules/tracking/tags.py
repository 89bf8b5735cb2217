"""Names of the MLflow tags that Convoy writes to runs, and of the folders and files it logs as artifacts of runs.

Runs of earlier versions bear these names: renaming a constant is safe, changing a value is not. Tags of model
versions are in flows/promotion/model_registry.py.
"""

from __future__ import annotations

# Tags of a training run.
DATASET_TAG = "convoy.dataset"  # the dataset's name; a sweep's own run has it, too
FINGERPRINT_TAG = "convoy.fingerprint"  # the fingerprint of the normalized dataset
GIT_COMMIT_TAG = "convoy.git_commit"  # the commit that was checked out
LOCAL_RUN_TAG = "convoy.local_run"  # the local id of a run that began while the MLflow server was unavailable
MODEL_TAG = "convoy.model"  # the id of the run's model, set once the upload is complete
RESTORED_RUN_TAG = "convoy.restored_run"  # on a run that was restored from DVC: the id of the original run
RESTORED_IN_TAG = "convoy.restored_in"  # on such a run: the machine and the folder of the project that restored it
NOT_FINITE_PREFIX = "not_finite."  # followed by the name of a metric that was infinite or NaN

# Tags of sweeps, of their trials, and of the runs of `find`.
SWEEP_TAG = "convoy.sweep"  # on the sweep's own run: the folder of its study
BEST_RUN_TAG = "convoy.best_run"  # on the sweep's own run: the id of its best trial's run
PARENT_RUN_TAG = "mlflow.parentRunId"  # on a trial's run: the id of the sweep's own run; MLflow nests by it
TRIAL_TAG = "convoy.trial"  # on a trial's run: the number of the trial
PRUNED_TAG = "convoy.pruned"  # on a trial's run: the epoch after which it was pruned
FIND_TAG = "convoy.find"  # the parameter that the run looks for: learning rate or batch size

# Artifacts: folders of a run, and files in them that are read again.
DATASET_FOLDER = "dataset"
SOURCE_FOLDER = "source"
PATCH_ARTIFACT = f"{SOURCE_FOLDER}/changes.patch"  # the difference between the working tree and the commit
TRAINING_IMAGES_ARTIFACT = "training/pictures.parquet"  # ids, groups and hashes of the training images
REPORT_FOLDER = "report"
PREDICTIONS_ARTIFACT = f"{REPORT_FOLDER}/predictions.csv"  # a row for each test image
EXPLAIN_FOLDER = f"{REPORT_FOLDER}/sees"
DRIFT_FOLDER = "drift"
PROMOTION_FOLDER = "promotion"  # a folder below it for each decision
SWEEP_FOLDER = "sweep"
