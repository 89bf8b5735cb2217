from lightning_modules.tracking.model_logging import REQUIRED_PACKAGES, list_requirements


def list_names(code) -> set[str]:
    return {line.partition("==")[0] for line in list_requirements(code)}


def test_a_model_requires_what_the_projects_own_modules_import(tmp_path):
    code = tmp_path / "code"
    assert list_names(code) == set(REQUIRED_PACKAGES)
    (code / "parts").mkdir(parents=True)
    (code / "net.py").write_text("import json, torch, sklearn.svm, not_installed\nfrom parts import one\n")
    (code / "parts/one.py").write_text(
        "def later():\n    from captum.attr import Saliency\n    from . import two\n"
    )
    assert list_names(code) - set(REQUIRED_PACKAGES) == {"scikit-learn", "captum"}
