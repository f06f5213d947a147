"""A classifier of the dataset's own classes."""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from gan_runner.datasets.data import CHUNK, Data, seeded
from gan_runner.features.network import FeatureNetwork, require_images
from gan_runner.storage.cache import cache_directory, cached, content_key
from gan_runner.torch_utils.bounds import NonNegativeInt, PositiveInt
from gan_runner.torch_utils.randomness import derive

RECIPE = 1  # raise it with every change of the network or of its training: weights of another recipe are not reused
TRAINING_BATCH = 128
LARGEST = 32  # pixels of a side: larger images are reduced to that, so that what the training takes has a bound
LEARNING_RATE = 4e-3


class Classifier(FeatureNetwork):
    """A small convolutional network that learns the dataset's labels once and is kept in the user's cache directory.

    Structure: `ConvolutionalNetwork`, for images of any size, those with a side of more than 32 pixels reduced to that
    (bilinear, antialiased). Features: its 4 `width` penultimate activations, after
    ReLU. Logits: log-probabilities. Of stacked images it looks at each channel by itself: the features of the C
    channels stand one after another (N, C * 4 width), and the K^C logits are those of the joint classes, whose digits
    in base K are the channels' classes.

    Training: `steps` batches of 128 training samples, cross-entropy, AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)
    in one cycle of the learning rate (Smith & Topin 2017, arXiv:1708.07120). The same data, keys and machine give the
    same weights on the CPU, whatever the number of threads.
    """

    name = "classifier"
    resize = "none"

    def __init__(self, *, steps: PositiveInt, width: PositiveInt, seed: NonNegativeInt):
        self.steps, self.width, self.seed = steps, width, seed

    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Train on all training samples, or load what was trained on the same. `accuracy` is that on all held-out ones.

        Stacked images: of the data that their channels are from. Raises ValueError for points, and without labels.
        """
        require_images(data, self.name)
        part = data if data.parts is None else data.parts
        images, labels = part.training(None)
        if labels is None:
            raise ValueError("features=classifier: this dataset has no labels; features=inception needs none")
        held_out = _held_out(part)
        keys: tuple[int, ...] = (RECIPE, self.steps, self.width, self.seed, part.num_classes)
        self.size = reduced_size(part.shape)
        if self.size != part.shape[1:]:
            self.resize = f"bilinear, antialiased, to {self.size[0]}x{self.size[1]}"
            images, keys = self._reduced(images), (*keys, *self.size)

        def make() -> dict[str, Any]:
            start = time.perf_counter()
            say(
                f"training the feature classifier on the {len(images):,} labels of the dataset "
                f"(once; cached in {cache_directory()})"
            )
            # On busy cores small operations wait for their threads, ten times as long as one thread takes.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                weights = self._train(images, labels)
            finally:
                torch.set_num_threads(threads)
            self._use(weights)
            accuracy = None
            if held_out is not None:
                accuracy = float((self.look(held_out[0])[1].argmax(1) == held_out[1]).double().mean())
            found = "" if accuracy is None else f": {accuracy:.2%} of the held-out labels are right"
            say(f"trained the feature classifier in {time.perf_counter() - start:.0f} s{found}")
            return {"weights": weights, "accuracy": accuracy}

        self.device, self.shape, self.num_classes = data.device, part.shape, part.num_classes
        self.known = (data.shape, data.num_classes)
        self.dimension = data.shape[0] // part.shape[0] * 4 * self.width
        key = content_key(*keys, images, labels, *(held_out or ()))
        made = cached(f"classifier-{key[:32]}.pt", make)
        self._use(made["weights"])
        self.sha256, self.accuracy = content_key(*made["weights"].values()), made["accuracy"]

    def knows_classes_of(self, data: Data) -> bool:
        """Whether it was prepared for this dataset, as far as shape and number of classes tell."""
        return (data.shape, data.num_classes) == self.known

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) on the network's device -> features (N, F), log-probabilities (N, K)."""
        count = len(images)
        features, logits = self.network(self._reduced(images.reshape(-1, *self.shape)))
        parts = logits.log_softmax(1).view(count, -1, self.num_classes).unbind(1)
        joint = parts[0]
        for part in parts[1:]:
            joint = (joint[:, :, None] + part[:, None, :]).flatten(1)
        return features.view(count, -1), joint

    def _reduced(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> what the network looks at: the same, or images of fewer pixels."""
        if images.shape[2:] == self.size:
            return images
        some = (F.interpolate(part.float(), self.size, mode="bilinear", antialias=True) for part in images.split(CHUNK))
        return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in some])

    def _use(self, weights: dict[str, Tensor]) -> None:
        self.network = self._build()
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)

    def _build(self) -> "ConvolutionalNetwork":
        """A network whose initial weights depend on `seed` alone; the global random numbers stay as they are."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(self.seed, "weights"))
            network = ConvolutionalNetwork((self.shape[0], *self.size), self.num_classes, self.width)
        if self.device.type == "cpu":
            return network.to(memory_format=torch.channels_last)  # trains four times as fast there
        return network.to(self.device)

    def _train(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """uint8 images (N, C, H, W) and labels (N,) on the CPU -> trained weights there."""
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(self.device.type, enabled=False),
        ):
            network = self._build()
            some = images[:: -(-len(images) // CHUNK)].float()
            network.mean.copy_(some.mean((0, 2, 3), keepdim=True))
            network.sd.copy_(some.std((0, 2, 3), keepdim=True, correction=0).clamp_min(1))  # 0 of a constant channel
            optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=self.steps)
            rows, epoch = torch.empty(0, dtype=torch.int64), 0
            label = "  training the feature classifier"
            for _ in track(range(self.steps), label, transient=True, disable=not sys.stdout.isatty()):
                while len(rows) < TRAINING_BATCH:
                    order = torch.randperm(len(images), generator=seeded(derive(self.seed, "epoch", epoch)))
                    rows, epoch = torch.cat([rows, order]), epoch + 1
                batch, rows = rows[:TRAINING_BATCH], rows[TRAINING_BATCH:]
                _, logits = network(images[batch].to(self.device))
                optimizer.zero_grad()
                F.cross_entropy(logits, labels[batch].to(self.device)).backward()
                optimizer.step()
                schedule.step()
        return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def reduced_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """The sides of what the network sees of images (C, H, W): of the same aspect, none longer than `LARGEST`."""
    factor = min(1.0, LARGEST / max(shape[1:]))
    return max(1, round(shape[1] * factor)), max(1, round(shape[2] * factor))


class ConvolutionalNetwork(nn.Module):
    """uint8 (N, C, H, W) -> features (N, 4 width), logits (N, K).

    The pixels are standardised per channel. 3x3 convolutions of stride 2, with BatchNorm and ReLU, follow until no side
    is longer than 4 pixels, the first of `width` channels, each of twice as many as the one before, but at most
    4 width; then a linear layer with ReLU to the features, and one to the logits.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, shape: tuple[int, ...], num_classes: int, width: int):
        super().__init__()
        channels, *sides = shape
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("sd", torch.ones(1, channels, 1, 1))
        layers: list[nn.Module] = []
        wider = width
        while max(sides) > 4:
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.BatchNorm2d(wider), nn.ReLU()]
            channels, wider = wider, min(2 * wider, 4 * width)
            sides = [(side + 1) // 2 for side in sides]
        layers += [nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], 4 * width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits, float32."""
        features = self.body((images.float() - self.mean) / self.sd)
        return features, self.head(features)


def _held_out(data: Data) -> tuple[Tensor, Tensor] | None:
    """All held-out images, uint8 (N, C, H, W), and their labels (N,), on the CPU; None if there are none."""
    samples, labels = data.held_out(sys.maxsize) or (None, None)
    if samples is None or labels is None:
        return None
    return torch.cat([data.to_pixels(some).cpu() for some in samples.split(CHUNK)]), labels.cpu()
