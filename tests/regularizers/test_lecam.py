"""LeCam: its running means by hand, its derivatives, its state."""

import pytest
import torch
from torch.func import functional_call

from gan_runner.games.term import Term
from gan_runner.regularizers import penalties
from tests.helpers.penalties import Logits, Probe, smooth_network, some, take_turn, view_of


def a_lecam() -> penalties.LeCam:
    """With means that are far from those of the batch."""
    lecam = penalties.LeCam(decay=1 - 1e-12)  # so that they stand still, as they do for the gradient
    lecam.updates.fill_(1)
    lecam.real_mean.fill_(0.5)
    lecam.fake_mean.fill_(-0.7)
    return lecam.double()


def test_lecam_by_hand():
    lecam = penalties.LeCam(decay=0.9)
    sequence = [  # real logits, fake logits, running means of both, by hand
        ([1.0, 3.0], [-2.0, 0.0], 2.0, -1.0),  # the first value as it is
        ([4.0, 4.0], [1.0, 3.0], 2.2, -0.7),
        ([0.2, 0.2], [-0.7, -0.7], 2.0, -0.7),
    ]
    for update, (real, fake, real_mean, fake_mean) in enumerate(sequence):
        assert lecam.updates == update
        result = take_turn(lecam, view_of(Logits(), torch.tensor(real)[:, None], torch.tensor(fake)[:, None]))
        assert lecam.real_mean.item() == pytest.approx(real_mean)
        assert lecam.fake_mean.item() == pytest.approx(fake_mean)
        expected = [(r - fake_mean) ** 2 + (f - real_mean) ** 2 for r, f in zip(real, fake, strict=True)]
        assert result.tolist() == pytest.approx(expected)


def test_lecam_differentiates_the_logits_and_not_the_means():
    """Also where it is the first to look at them."""
    network, lecam = Logits(), penalties.LeCam(decay=0.9)
    lecam.update(view_of(network, torch.tensor([[1.0]]), torch.tensor([[-1.0]])))
    take_turn(lecam, view_of(network, torch.tensor([[2.0]]), torch.tensor([[3.0]]))).sum().backward()
    assert network.weight.grad is not None  # α: 1.1 and -0.6
    assert network.weight.grad.item() == pytest.approx(2 * (2 + 0.6) * 2 + 2 * (3 - 1.1) * 3)


def test_lecam_finite_differences():
    probe = Probe(smooth_network(), a_lecam())
    names, weights = zip(*probe.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *values: functional_call(probe, dict(zip(names, values, strict=True)), ()), weights
    )


def test_lecam_of_stacked_runs_and_its_state():
    real, fake = some(2, 3, 4).float(), some(2, 3, 4, seed=1).float()  # updates, runs, samples
    stacked, alone = penalties.LeCam(decay=0.9), [penalties.LeCam(decay=0.9) for _ in range(3)]
    for r, f in zip(real, fake, strict=True):
        together = take_turn(stacked, view_of(Logits(), r[..., None], f[..., None]))
        for run, lecam in enumerate(alone):
            single = take_turn(lecam, view_of(Logits(), r[run, :, None], f[run, :, None]))
            torch.testing.assert_close(together[run], single)
    resumed = penalties.LeCam(decay=0.9)
    resumed.load_state_dict(alone[0].state_dict())
    view = view_of(Logits(), real[0, 0, :, None], fake[0, 0, :, None])
    assert take_turn(resumed, view).equal(take_turn(alone[0], view))
    assert set(Term(resumed).memory()) == {"real_mean", "fake_mean", "updates"}
