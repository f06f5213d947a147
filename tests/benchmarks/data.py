"""What the tables read beside MNIST: photographs as an array, few images of clothes, and a LeNet for these."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder

from gan_runner.datasets.vision import fashion_mnist
from gan_runner.features.lenet import SIDE, LeNet5

TRAINING, HELD_OUT = 1000, 5000
EPOCHS, BATCH = 3, 128


def photographs(data: Path) -> None:
    """Write DATA/photographs/images.npy, 64x64, and labels.npy, of the folder DATA/sign-digits, unless they are there.

    https://github.com/ardamavi/Sign-Language-Digits-Dataset: 2,062 photographs of hand signs in 10 classes.
    """
    folder = data / "photographs"
    if (folder / "labels.npy").exists():
        return
    folder.mkdir(exist_ok=True)
    found = ImageFolder(data / "sign-digits", transform=lambda image: image.resize((64, 64), Image.Resampling.LANCZOS))
    np.save(folder / "images.npy", np.stack([np.asarray(image) for image, _ in found]))
    np.save(folder / "labels.npy", np.array(found.targets))


def few_clothes(data: Path) -> None:
    """Write DATA/limited/images.npy and fashion-lenet.pth, from DATA/FashionMNIST, unless they are there.

    1,000 images to train on and 5,000 to hold out, and a LeNet that tells the classes.
    """
    folder = data / "limited"
    images, weights = folder / "images.npy", folder / "fashion-lenet.pth"
    if images.exists() and weights.exists():
        return
    folder.mkdir(exist_ok=True)
    dataset = fashion_mnist(
        root=str(data), download=False, image_size=None, channels=None, normalization="unit", flip=False, seed=0
    )
    samples, labels = dataset.training(None)
    assert labels is not None
    np.save(images, samples[: TRAINING + HELD_OUT, 0].numpy())
    torch.save(train_lenet(samples, labels), weights)


def train_lenet(images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights of a LeNet that tells the labels (N,) of images (N, 1, H, W), uint8."""
    torch.manual_seed(0)
    network = LeNet5()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for batch, target in DataLoader(TensorDataset(images, labels), BATCH, shuffle=True):
            pixels = F.interpolate(batch / 255, size=(SIDE, SIDE), mode="bilinear", antialias=True)
            optimizer.zero_grad()
            F.cross_entropy(network(pixels)[1], target).backward()
            optimizer.step()
    return network.state_dict()
