from lightning_modules.tracking.metric_logging import name_metrics, to_metric_name


def test_a_class_name_that_mlflow_would_refuse_is_spelled_for_it():
    assert to_metric_name("cat & dog/é") == "cat _ dog_é"


def test_classes_that_mlflow_would_spell_alike_stay_different_metrics():
    names = ["C_", "C#", "C+", "cat & dog"]
    expected = {"C#": "C_x23", "C+": "C_x2b", "C_": "C_", "cat & dog": "cat _ dog"}
    assert name_metrics(names) == expected == name_metrics(reversed(names))
    assert name_metrics(["C#", "cat"]) == {"C#": "C_", "cat": "cat"}
    codes = name_metrics(["C#", "C+", "C_x23"])
    assert codes["C_x23"] == "C_x23" and len(set(codes.values())) == 3
