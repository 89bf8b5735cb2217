from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.explain.activations import find_filter_layers, trace_activations
from lightning_modules.explain.top_patches import (
    Patch,
    add_context,
    find_patch,
    measure_layer,
    measure_responses,
)

ROW = 10


@pytest.fixture
def model():
    """A network of one filter for an edge from dark (left) to bright (right), and one for brightness."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()).eval()
    network[0].weight.data = torch.tensor([[[[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]]], [[[1.0] * 3] * 3]])
    network[0].bias.data.zero_()
    return SimpleNamespace(
        network=network, preprocess=lambda images: torch.from_numpy(images).permute(0, 3, 1, 2).float()
    )


@pytest.fixture
def images():
    """Twelve black images; in image i, three pixels under each other in column i + 6 are as bright as 10 i."""
    images = np.zeros((12, 24, 24, 1), np.uint8)
    for i in range(12):
        images[i, ROW : ROW + 3, i + 6 : i + 7] = 10 * i
    return images


def measure(model, images):
    layers = find_filter_layers(trace_activations(model.network, model.preprocess(images[:1])).activations, 3)
    return measure_responses(model, images, layers)[0]


def test_a_patch_is_the_receptive_field_at_the_strongest_response(model, images):
    responses = measure(model, images)
    assert responses.find_top(0).tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3]
    for image in responses.find_top(0).tolist():
        assert responses.maxima[image, 0] == 3 * 10 * image
        patch = find_patch(responses, 0, image, images.shape[1:])
        assert patch == Patch((ROW, ROW + 3), (image + 4, image + 7))
        assert patch.cut(images[image])[:, :, 0].tolist() == [[0, 0, 10 * image]] * 3


def test_edges_and_classes_of_the_patches_are_measured_beside_chance(model, images):
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    responses = measure(model, images)
    measures = measure_layer(responses, images, labels, 2, seed=0)
    assert measures.num_filters == 2 and measures.class_share == 1
    assert 0.7 < measures.random_class_share < 0.8  # 9 of 12, of which 9 are of class 1
    assert measures.orientation > 0.9 > measures.random_orientation
    both = measure_layer(responses, images, np.eye(2, dtype=np.int64)[labels], 2, seed=0)
    assert both == measures  # the same labels as 0 and 1


@pytest.mark.parametrize(
    ("patch", "shown"),
    [
        (Patch((10, 13), (10, 13)), Patch((9, 15), (9, 15))),  # a quarter of the side
        (Patch((0, 2), (10, 13)), Patch((0, 6), (9, 15))),  # cut off at the edge
        (Patch((0, 8), (4, 12)), Patch((0, 8), (4, 12))),
    ],
)
def test_a_tiny_patch_is_shown_with_its_surroundings(patch, shown):
    assert add_context(patch, (24, 24, 1)) == shown
