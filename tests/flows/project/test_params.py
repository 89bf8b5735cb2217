import subprocess
import sys
from typing import get_args

import pytest

from flows.project.params import PredictParams, PromotionMetric, SweepMetric, load_section_params
from flows.sweeps.study import METRICS
from imageset.exceptions import UserError
from tests.helpers.project import ROOT


def test_the_values_that_a_section_allows_are_those_that_the_code_knows():
    from lightning_modules.comparison.multiclass_metrics import MULTICLASS_METRICS
    from lightning_modules.comparison.multilabel_metrics import MULTILABEL_METRICS
    from lightning_modules.inference.engine_selection import AUTO, ENGINES, PRECISIONS

    assert set(get_args(PromotionMetric)) == MULTICLASS_METRICS.keys() | MULTILABEL_METRICS.keys()
    assert get_args(SweepMetric) == tuple(METRICS)
    fields = PredictParams.model_fields
    assert set(get_args(fields["engine"].annotation)) == {AUTO, *ENGINES}
    assert set(get_args(fields["precision"].annotation)) == {AUTO, *PRECISIONS}


def test_a_params_file_of_before_gc_keeps_three_champions(tmp_path):
    (tmp_path / "params.yaml").write_text("train: {}\n")
    assert load_section_params(tmp_path / "params.yaml", "gc") == {"keep": 3}
    (tmp_path / "params.yaml").write_text("gc: {keep: 0}\n")
    with pytest.raises(UserError, match=r"gc\.keep: is 0; give 1 or more|gc\.keep is 0; give 1 or more"):
        load_section_params(tmp_path / "params.yaml", "gc")


def test_the_help_the_status_and_the_decode_workers_do_not_load_pydantic():
    for module in ("flows.__main__", "flows.reports.status", "imageset.__main__", "imageset.executors.worker",
                   "imageset.normalize.tasks"):  # fmt: skip
        code = f"import sys, {module}; sys.exit('pydantic' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, module
