import subprocess
import sys

from tests.helpers.project import ROOT


def test_importing_what_every_command_needs_loads_nothing_heavy_and_writes_nothing(tmp_path):
    heavy = ["torch", "torchvision", "pytorch_lightning", "mlflow", "prefect", "dvc", "sklearn", "matplotlib",
             "jinja2"]  # fmt: skip
    code = (
        "import sys, flows.__main__\n"
        "import imageset.normalize.stage, imageset.sources.factory, imageset.store.reader\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert list(tmp_path.iterdir()) == []
