"""The law of an adaptive p."""

from typing import Any

import pytest
import torch

from gan_runner.augmentations import Ada, Apa
from gan_runner.augmentations.adaptation import Adaptation, adaptations

KEYS: dict[str, Any] = {"p": 0.2, "target": 0.6, "interval": 4, "images": 1000}


def updated(adaptation: Adaptation, shares: list[float]) -> list[float]:
    """p after each of some updates of 20 samples, a share of which has positive logits."""
    found = []
    for share in shares:
        logits = torch.where(torch.arange(20) < round(20 * share), 3.0, -0.1)
        adaptation.update(logits)
        found.append(adaptation.p.item())
    return found


def test_it_moves_by_the_images_seen_at_every_interval():
    adaptation = Adaptation(**KEYS)
    assert updated(adaptation, [1.0] * 8) == pytest.approx([0.2] * 3 + [0.28] * 4 + [0.36])
    assert adaptation.logged()["mean_sign"] == 1
    assert updated(adaptation, [0.0] * 4) == pytest.approx([0.36] * 3 + [0.28])
    assert adaptation.logged()["mean_sign"] == -1


@pytest.mark.parametrize(("share", "sign"), [(0.75, -1), (0.85, 1)])  # mean signs of 0.5 and 0.7
def test_the_target_is_of_the_mean_sign(share, sign):
    assert updated(Adaptation(**KEYS), [share] * 4)[-1] == pytest.approx(0.2 + 0.08 * sign)


def test_the_signs_of_all_updates_count():
    assert updated(Adaptation(**KEYS), [1.0, 1.0, 1.0, 0.0])[-1] == pytest.approx(0.12)  # their mean is 0.5


def test_p_stays_a_probability():
    adaptation = Adaptation(**KEYS | {"images": 100})
    assert updated(adaptation, [1.0] * 8)[-1] == 1
    assert updated(adaptation, [0.0] * 12)[-1] == 0


def test_each_run_has_its_own():
    adaptation = Adaptation(**KEYS)
    for name, buffer in list(adaptation.named_buffers()):
        setattr(adaptation, name, buffer.expand(2).clone())
    for _ in range(4):
        adaptation.update(torch.tensor([[1.0] * 20, [-1.0] * 20]))
    torch.testing.assert_close(adaptation.p, torch.tensor([0.28, 0.12]))


def test_a_fixed_p_is_a_number_and_an_adaptive_one_is_not_set():
    fixed, adaptive = Apa(**KEYS | {"target": None}), Apa(**KEYS)
    assert fixed.p == 0.2
    fixed.p = 0.4
    assert fixed.p == 0.4
    with pytest.raises(ValueError, match=r"augmentation\.apa\.target: .*target=null"):
        adaptive.p = 0.4
    assert list(adaptations([fixed, adaptive, lambda samples, randomness, step: samples])) == ["apa"]
    assert Ada.capturable
