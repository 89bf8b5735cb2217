import pytest

from flows.sweeps import study
from flows.sweeps.study import Dimension, compute_study_key, parse_space
from imageset.exceptions import UserError

TRAIN = {"threads": None, "data": {"batch_size": 64}, "trainer": {"max_epochs": 3},
         "model": {"flip": False, "optimizer": {"class_path": "a.B", "init_args": {"lr": 0.1}}}}  # fmt: skip
LR = "train.model.optimizer.init_args.lr"
PARAMS = {"metric": "val_loss", "pruner": "none", "startup_trials": 1, "warmup_epochs": 0, "seed": 0,
          "trials": 3, "processes": "auto"}  # fmt: skip


def dimensions(**given) -> list[Dimension]:
    return parse_space({"space": {key.replace("__", "."): value for key, value in given.items()}}, TRAIN, "sweep")


def test_ranges_and_lists_are_understood(tmp_path):
    given = {LR: {"low": 1e-4, "high": 1e-2, "log": True}, "train.data.batch_size": {"low": 8, "high": 128},
             "train.model.flip": [False, True]}  # fmt: skip
    made = parse_space({"space": given}, TRAIN, "sweep")
    trial = study.open_study(tmp_path, PARAMS, 3).ask()
    lr, batch_size, flip = (one.suggest(trial) for one in made)
    assert 1e-4 <= lr <= 1e-2 and lr == float(f"{lr:.4g}")
    assert isinstance(batch_size, int) and 8 <= batch_size <= 128 and flip in (False, True)


def test_a_list_may_hold_whole_sections_and_null(tmp_path):
    (one,) = parse_space({"space": {"train.model.optimizer": [None, {"class_path": "a.C"}]}}, TRAIN, "sweep")
    assert one.suggest(study.open_study(tmp_path, PARAMS, 3).ask()) in (None, {"class_path": "a.C"})


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        ("train.model.flipp", [1], "'flipp': did you mean 'flip'"),
        ("model.flip", [1], "keys begin with 'train.'"),
        ("train.model.flip.deeper", [1], "no such key"),
        ("train.model.flip", 3, "or a list of values, not 3"),
        ("train.model.flip", [], "or a list of values"),
        ("train.model.flip", {"low": 1, "hihg": 2}, "unknown key 'hihg'; did you mean 'high'"),
        ("train.model.flip", {"low": "1e-4", "high": 2}, "low: must be a number, not '1e-4'"),
        ("train.model.flip", {"low": 3, "high": 2}, "must not lie above"),
        ("train.model.flip", {"low": 0, "high": 2, "log": True}, "with `log: true` above 0"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_named_in_one_line(key, given, said):
    with pytest.raises(UserError, match=said):
        parse_space({"space": {key: given}}, TRAIN, "sweep")


def test_optimizers_and_the_trainer_take_keys_that_are_not_spelled_out():
    assert len(dimensions(train__model__optimizer__init_args__eps=[1], train__trainer__max_time=[1])) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"metric": "test_accuracy"}, "sweep.metric"), ({"pruner": "mediam"}, "did you mean 'median'"),
     ({"trials": 0}, "give 1 or more"), ({"processes": "all"}, "give auto"), ({"processes": 0}, "give auto")],
)  # fmt: skip
def test_a_wrong_setting_is_named(wrong, said):
    with pytest.raises(UserError, match=said):
        study.check_sweep_params(PARAMS | wrong, "sweep")


def test_a_sweep_stays_the_same_when_its_best_values_are_written_and_is_another_one_with_other_parameters():
    made = dimensions(train__data__batch_size=[32, 64], train__trainer__max_time=[1, 2])
    key = compute_study_key("data", TRAIN, made, PARAMS, "code")
    written = {**TRAIN, "threads": 1, "data": {"batch_size": 32}, "trainer": {"max_epochs": 3, "max_time": 2}}
    assert compute_study_key("data", written, made, PARAMS, "code") == key
    assert TRAIN["data"] == {"batch_size": 64}
    others = [
        ("other", TRAIN, made, PARAMS, "code"),
        ("data", {**TRAIN, "trainer": {"max_epochs": 4}}, made, PARAMS, "code"),
        ("data", TRAIN, made[:1], PARAMS, "code"),
        ("data", TRAIN, made, PARAMS | {"metric": "val_accuracy"}, "code"),
        ("data", TRAIN, made, PARAMS, "changed code"),
    ]
    assert key not in {compute_study_key(*one) for one in others}


@pytest.mark.parametrize(("pruner", "ends_early"), [("median", True), ("hyperband", True), ("none", False)])
def test_a_training_far_worse_than_the_others_is_ended_early_if_the_pruner_says_so(tmp_path, pruner, ends_early):
    made = study.open_study(tmp_path, PARAMS | {"pruner": pruner}, 8)
    ended = []
    for number in range(12):
        trial, loss = made.ask(), 1.0 if number % 3 else 9.0
        for epoch in range(8):
            trial.report(loss, epoch)
            if trial.should_prune():
                ended.append(loss)
                break
        made.tell(trial, loss)
    assert (9.0 in ended) == ends_early


def test_what_was_under_way_is_asked_for_again_and_draws_do_not_begin_anew(tmp_path):
    made = dimensions(train__data__batch_size={"low": 1, "high": 10**6})
    first = study.open_study(tmp_path, PARAMS, 3)
    assert study.resume_study(first, made, {"train.data.batch_size": 64}) == 0
    values = []
    for _ in range(3):
        trial = first.ask()
        values.append(made[0].suggest(trial))
        trial.set_user_attr(study.FOLDER_ATTR, trial.number)
    assert values[0] == 64  # what params.yaml says comes first
    first.tell(0, 0.5)
    again = study.open_study(tmp_path, PARAMS, 3)
    assert study.resume_study(again, made, {"train.data.batch_size": 64}) == 2
    assert study.count_finished(again) == 1
    later = []
    for _ in range(3):
        trial = again.ask()
        later.append((made[0].suggest(trial), trial.user_attrs.get(study.FOLDER_ATTR)))
    assert later[:2] == [(values[1], 1), (values[2], 2)]
    assert later[2][1] is None and later[2][0] not in values
