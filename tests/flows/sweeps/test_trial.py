from flows.project.project import Project
from flows.sweeps.trial import _link_project, remove_trial_folder


def test_trials_share_the_features_and_the_dataset_and_leave_both_when_they_are_removed(tmp_path):
    project = tmp_path / "project"
    (project / "data/normalized").mkdir(parents=True)
    (project / "data/normalized/dataset.json").write_text("{}")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        _link_project(folder, Project(project), {"train": {}})
        _link_project(folder, Project(project), {"train": {}})  # of a trial that goes on
    (folders[0] / ".cache/features/file").write_text("features")
    (folders[0] / ".cache/train").mkdir()
    assert (folders[1] / ".cache/features/file").read_text() == "features"
    assert (folders[1] / "data/normalized/dataset.json").exists()
    assert not (folders[1] / ".cache/train").exists()
    remove_trial_folder(folders[0])
    assert (project / ".cache/features/file").exists() and (project / "data/normalized/dataset.json").exists()
