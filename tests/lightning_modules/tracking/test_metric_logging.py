from lightning_modules.tracking.metric_logging import to_metric_name


def test_a_class_name_that_mlflow_would_refuse_is_spelled_for_it():
    assert to_metric_name("cat & dog/é") == "cat _ dog_é"
