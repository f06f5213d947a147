"""Parts of a dataset in the place of its training split."""

import pytest
import torch
from torch import Tensor

from gan_runner.datasets.data import Data, Samples
from gan_runner.datasets.points import ring
from gan_runner.datasets.splits import HeldOut, Rest


def numbered(count: int, held_out: int = 0) -> Data:
    """Points whose coordinates are their numbers; those that are held out are counted on."""
    points = torch.arange(count + held_out).float()[:, None].expand(-1, 2).contiguous()
    return Samples(points[:count], seed=0, held_out=points[count:] if held_out else None)


def numbers(points: Tensor | None) -> set[int]:
    assert points is not None
    return {int(number) for number in points[:, 0]}


def endless() -> Data:
    return ring(modes=8, radius=2.0, sd=0.02, samples=None, seed=0)


def test_unseen_samples_are_the_held_out_ones_in_a_random_order():
    data = numbered(20, held_out=30)
    assert numbers(data.unseen(None)) == numbers(data.unseen(99)) == set(range(20, 50))
    some = data.unseen(10)
    assert len(numbers(some)) == 10
    assert numbers(some) != set(range(20, 30))  # a file may have them sorted
    assert numbers(data.unseen(5)) < numbers(some)
    assert numbered(20).unseen(3) is None


def test_unseen_images_are_pixels():
    pixels = torch.randint(256, (12, 1, 4, 4), dtype=torch.uint8)
    data = Samples(pixels[:8], seed=0, held_out=pixels[8:], normalization="standard")
    found = data.unseen(None)
    assert found is not None
    torch.testing.assert_close(found, pixels[8:])
    by_default = Data.unseen(data, None)  # as of a dataset that knows only `held_out`
    assert by_default is not None
    torch.testing.assert_close(by_default, pixels[8:])


def test_unseen_samples_of_an_endless_dataset():
    data = endless()
    found = data.unseen(5)
    assert found is not None
    assert not found.eq(data.training(5)[0]).all()
    with pytest.raises(ValueError, match="endless"):
        data.unseen(None)


def test_the_held_out_split_in_the_place_of_the_training_split():
    data = HeldOut(numbered(20, held_out=30))
    assert data.size == 30
    assert numbers(data.training(None)[0]) == set(range(20, 50))
    assert len(data.training(4)[0]) == 4
    assert numbers(data.unseen(None)) == set(range(20))
    assert HeldOut(endless()).size is None
    assert len(HeldOut(endless()).training(7)[0]) == 7
    with pytest.raises(ValueError, match="nothing is held out"):
        HeldOut(numbered(20))


@pytest.mark.parametrize(("taken", "size"), [(10, 10), (3, 5), (1, 19)])
def test_two_parts_of_the_training_split_are_disjoint(taken, size):
    data = Rest(numbered(20), taken, size)
    one, other = numbers(data.unseen(None)), numbers(data.training(None)[0])
    assert len(one) == taken
    assert len(other) == size
    assert not one & other
    assert one != set(range(taken))  # a file may have them sorted
    assert numbers(data.training(2)[0]) < other or size <= 2
    assert numbers(data.unseen(None)) == one
