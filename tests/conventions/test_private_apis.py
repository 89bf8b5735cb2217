"""Private APIs of libraries that Convoy uses. A test fails when its API is gone or changed."""

from pathlib import Path


def test_torch_tells_whether_a_cpu_has_bf16():
    import torch

    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)


def test_a_lightning_parser_lists_its_actions():
    from pytorch_lightning.cli import LightningArgumentParser

    parser = LightningArgumentParser()
    parser.add_argument("--one_key", type=int)
    assert "one_key" in [action.dest for action in parser._actions]


def test_lightnings_fit_loop_restores_loaders_and_knows_whether_it_can_stop_early():
    from pytorch_lightning.loops.fit_loop import _FitLoop

    assert callable(_FitLoop._load_combined_loader_states)
    assert isinstance(_FitLoop._can_stop_early, property)


def test_a_lightning_trainer_has_its_sums_and_its_folder():
    import pytorch_lightning as pl

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert dict(trainer.fit_loop.epoch_loop._results) == {}
    assert isinstance(trainer._default_root_dir, str)
    assert pl.LightningModule()._trainer is None


def test_a_lightning_metric_is_a_sum_and_a_weight():
    import torch
    from pytorch_lightning.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric

    metric = _ResultMetric(_Metadata("training_step", "loss"), is_tensor=True)
    assert metric.is_tensor and metric.meta.is_mean_reduction and metric._computed is None
    metric.update(torch.tensor(2.0), 3)
    assert (float(metric.value), int(metric.cumulated_batch_size), metric.has_reset) == (6.0, 3, False)


def test_lightnings_launcher_starts_the_other_ranks_and_a_strategy_holds_it():
    from pytorch_lightning.strategies import DDPStrategy
    from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

    assert callable(_SubprocessScriptLauncher._call_children_scripts)
    strategy = DDPStrategy()
    strategy._launcher = "ours"
    assert strategy.launcher == "ours"


def test_torch_has_the_antialiased_resize_operators():
    import torch

    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    for operator in (torch.ops.aten._upsample_bilinear2d_aa, torch.ops.aten._upsample_bicubic2d_aa):
        assert operator(pixels, (2, 2), False).shape == (1, 3, 2, 2)


def test_an_mlflow_dataset_makes_the_entity_that_log_inputs_takes():
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    dataset = MetaDataset(resolve_dataset_source("https://example.org/data"), name="digits", digest="1234")
    entity = dataset._to_mlflow_entity()
    assert (entity.name, entity.digest) == ("digits", "1234")


def test_mlflows_scoring_server_names_the_path_of_its_model():
    from mlflow.pyfunc.scoring_server import _SERVER_MODEL_PATH

    from lightning_modules.inference.pyfunc_model import SERVER_VARIABLE

    assert _SERVER_MODEL_PATH == SERVER_VARIABLE


def test_fsspec_gives_the_path_of_a_url():
    import fsspec

    kind = fsspec.get_filesystem_class("memory")
    assert kind._strip_protocol("memory://folder/a.zip").strip("/") == "folder/a.zip"


def test_torchvisions_sets_of_files_hold_their_paths_and_labels():
    import inspect

    from torchvision import datasets

    attributes = {
        datasets.Imagenette: ("_samples",),
        datasets.Flowers102: ("_image_files", "_labels"),
        datasets.OxfordIIITPet: ("_images", "_labels"),
    }
    for kind, names in attributes.items():
        assert [name for name in names if f"self.{name}" not in inspect.getsource(kind)] == []


def test_dvcs_run_cache_leaves_the_same_keys_out():
    from dvc.stage.cache import _get_cache_hash

    from imageset.params import UNSEEN_BY_DVC

    for key in ("anything", *UNSEEN_BY_DVC):
        first, second = (_get_cache_hash({"params": {key: value}}) for value in (1, 2))
        assert (first == second) is (key in UNSEEN_BY_DVC)


def test_the_migrations_of_mlflow_name_their_revisions_in_their_text():
    import mlflow
    from alembic.script import ScriptDirectory

    from lightning_modules.tracking.local_store.migration import find_revisions

    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    head, known = find_revisions()
    assert head == script.get_current_head()
    assert known == {revision.revision for revision in script.walk_revisions()}
