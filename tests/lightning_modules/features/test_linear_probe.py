import numpy as np
import pytest

from lightning_modules.calibration.temperature import fit_temperature
from lightning_modules.features.linear_probe import (
    DEFAULT_STRENGTH,
    STRENGTHS,
    choose_strength,
    compute_score,
    fit_head,
    is_correct,
    predict_out_of_fold,
)


def draw_classes(n=300, num_classes=3, dim=8, spread=1.0, seed=0):
    """Features of classes whose means lie on the axes, and their labels."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, num_classes, n)
    return (np.eye(dim)[labels] * 3 + draws.normal(0, spread, (n, dim))).astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_head_is_scikit_learns_on_features_of_similar_variances(num_classes):
    from sklearn.linear_model import LogisticRegression

    features, labels = draw_classes(num_classes=num_classes)
    features *= np.linspace(0.1, 10, 8, dtype=np.float32)
    head = fit_head(features, labels, num_classes, 0.1)
    variance = features.var(axis=0)
    scaled = (features - features.mean(axis=0)) / np.sqrt((variance + variance.mean()) / 2)
    expected = LogisticRegression(C=0.1, max_iter=500).fit(scaled, labels)
    logits = head.logits(features).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert head.weight.dtype == np.float32 and head.weight.shape == (num_classes, 8)
    assert probabilities == pytest.approx(expected.predict_proba(scaled), abs=2e-3)


def test_the_strength_with_the_lowest_calibrated_validation_loss_is_chosen():
    features, labels = draw_classes(60, dim=50, spread=1.5)
    val_features, val_labels = draw_classes(400, dim=50, spread=1.5, seed=1)
    strength, head, score = choose_strength(features, labels, val_features, val_labels, 3)
    assert score == compute_score(head.logits(val_features), val_labels)

    def compute_calibrated_loss(strength):
        logits = fit_head(features, labels, 3, strength).logits(val_features)
        return compute_score(logits / fit_temperature(logits, val_labels), val_labels).loss

    losses = {other: compute_calibrated_loss(other) for other in STRENGTHS}
    assert strength == min(losses, key=losses.__getitem__)
    assert STRENGTHS[0] < strength < STRENGTHS[-1]
    raw = {
        other: compute_score(fit_head(features, labels, 3, other).logits(val_features), val_labels).loss
        for other in STRENGTHS
    }
    assert strength < min(raw, key=raw.__getitem__)  # which would take a head only for being surer


def test_without_validation_images_the_default_is_taken():
    features, labels = draw_classes()
    strength, _, score = choose_strength(features, labels, features[:0], labels[:0], 3)
    assert strength == DEFAULT_STRENGTH and np.isnan(score.loss)


def test_a_class_without_images_is_never_predicted():
    features, labels = draw_classes(num_classes=2)
    logits = fit_head(features, labels * 2, 3, 0.1).logits(features)  # classes 0 and 2
    assert not (logits.argmax(axis=1) == 1).any()
    assert is_correct(logits, labels * 2).mean() > 0.9


def test_a_single_class_is_always_predicted():
    features, labels = draw_classes()
    assert (fit_head(features, labels * 0 + 1, 3, 0.1).logits(features).argmax(axis=1) == 1).all()


def test_each_label_of_several_has_its_own_regression_and_one_that_no_image_has_stays_unlikely():
    features, classes = draw_classes()
    labels = np.stack([classes == 0, classes != 1, classes == 9], axis=1).astype(np.uint8)
    head = fit_head(features, labels, 3, 0.1)
    logits = head.logits(features)
    assert is_correct(logits, labels).mean() > 0.85
    assert (logits[:, 2] < -4).all()


def test_out_of_fold_predictions_do_not_know_their_image_or_its_group():
    draws = np.random.default_rng(0)
    features = draws.normal(0, 1, (40, 60)).astype(np.float32)  # noise: only memory could predict it
    labels = draws.integers(0, 2, 40)
    memory = is_correct(fit_head(features, labels, 2, 10.0).logits(features), labels).mean()
    fair = is_correct(predict_out_of_fold(features, labels, np.arange(40), 2, 10.0, seed=0), labels).mean()
    assert memory == 1 and fair < 0.75
    twins, groups = np.concatenate([features, features]), np.tile(np.arange(40), 2)
    logits = predict_out_of_fold(twins, np.tile(labels, 2), groups, 2, 10.0, seed=0)
    assert is_correct(logits, np.tile(labels, 2)).mean() < 0.75  # a twin in another fold would give it away
