"""Load bundles of models that MLflow keeps."""

import tempfile
from pathlib import Path

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle


def load_bundle(model_uri: str) -> Bundle:
    """Load the bundle inside a logged or registered model, e.g. `models:/digits@champion`.

    Raises:
        UserError: MLflow has no such model, or its bundle is incomplete.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=scratch))
        except (MlflowException, OSError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"MLflow cannot give the model {model_uri} ({reason})") from error
        return Bundle.load(folder / "artifacts" / "bundle")
