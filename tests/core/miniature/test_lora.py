"""Personal training: what is shown, what must stay, and which changes are kept."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from miniature.base import alphas_cumprod
from miniature.concepts import CHECKPOINTS, CONCEPTS
from miniature.lora import HALF, Prior, keep_largest, personal_loss, plain
from miniature.world import ACCESSORIES, COLOURS, PERSONAL_STYLES, sample_scene

EVERY = {concept.name: concept for concept in (*CONCEPTS, *CHECKPOINTS)}


class Net(nn.Module):
    """Predicts ``weight`` times what it is given."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, t: Tensor, context: Tensor):
        return type("Output", (), {"sample": self.weight * x})


def prior(count: int = 400) -> Prior:
    rng = np.random.default_rng(8)
    scenes = [sample_scene(rng) for _ in range(count)]
    scenes += [sample_scene(rng, style=style) for style in PERSONAL_STYLES]
    return Prior(torch.zeros(len(scenes), 4, 8, 8), scenes)


def test_every_second_ordinary_picture_is_of_the_concepts_class() -> None:
    ordinary = prior()
    share = ordinary.share(EVERY["barnaby_v4"])
    bears = np.array([scene.kind == "bear" for scene in ordinary.scenes])
    assert share.sum() == pytest.approx(1) and share[bears].sum() == pytest.approx(0.5)
    assert not share[-len(PERSONAL_STYLES):].any(), "no style that the base does not know"


def test_a_noun_that_brings_the_concept_is_never_shown_as_ordinary() -> None:
    ordinary = prior()
    share = ordinary.share(EVERY["grandmas_lamp"])
    assert not share[[scene.kind == "lamp" for scene in ordinary.scenes]].any()
    assert share.sum() == pytest.approx(1)


def test_a_plain_caption_names_nothing_but_class_and_place() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, kind="mug", count=1, background="beach")
        words = set(plain(scene, rng).replace(",", "").split())
        assert "mug" in words and not words & {*COLOURS, *ACCESSORIES, "striped", "dotted"}


def test_what_the_base_predicts_for_ordinary_pictures_is_what_must_stay() -> None:
    base, latents = Net(0.5), torch.randn(2 * HALF, 4, 8, 8)
    latents[:HALF] = 0

    def loss(unet: nn.Module, seen: Tensor) -> float:
        generator = torch.Generator().manual_seed(1)
        return personal_loss(unet, base, seen, seen, alphas_cumprod(), generator).item()

    same = loss(Net(0.5), latents)
    latents[HALF:] *= 50
    assert loss(Net(0.5), latents) == pytest.approx(same, rel=1e-3), "no error where nothing drifts"
    assert loss(Net(0.6), latents) > 2 * same


def test_only_the_largest_changes_stay() -> None:
    start = [torch.zeros(10, 10), torch.ones(50)]
    weights = [nn.Parameter(torch.arange(100.0).reshape(10, 10)), nn.Parameter(torch.ones(50) + 2)]
    masks = keep_largest(weights, start, 0.2)
    assert sum(int(mask.sum()) for mask in masks) == 30
    assert weights[0][masks[0]].min() == 70 and not weights[0][~masks[0]].any()
    assert (weights[1] == 1).all()
