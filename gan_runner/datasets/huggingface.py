"""Images in a dataset of Hugging Face's `datasets`: saved to disk, in the cache, or on their hub."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gan_runner.datasets.data import Data, Normalization
from gan_runner.datasets.encoded import Broken, image_samples
from gan_runner.datasets.images import Channels, File, Fraction, ImageSize


def huggingface(
    *,
    path: str,
    name: str | None,
    split: str,
    image: str,
    label: str | None,
    download: bool,
    broken: Broken,
    held_out: Fraction,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool,
    seed: int,
) -> Data:
    """The images in a column of a dataset, and the labels in another. Images are decoded once, at the start; or, if
    they would take more than half of the memory, whenever they are read.

    path: what `save_to_disk` wrote, a folder of Parquet files, or the name of a dataset on the hub.
    name: of one of its configurations. split: such as train, or train[:10%].
    image: the column of images. label: that of class labels or whole numbers from 0; None = no labels.
    download: fetch from the hub what the cache has not; otherwise the network is not used.
    broken: what to do with an image that cannot be decoded, or is missing.
    channels: None = 3 if an image is stored in colour, else 1.

    Raises ValueError that names the key and what there is, ImportError without `datasets`.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ValueError("dataset=huggingface needs the library: pip install 'gan-runner[huggingface]'") from error
    with quiet(datasets):
        table = load_table(path, name, split, download=download)
        for key, column in (("image", image), ("label", label)):
            if column is not None and column not in table.column_names:
                raise ValueError(f"dataset.{key}={column}: {path} has the columns {', '.join(table.column_names)}")
        if not isinstance(table.features[image], datasets.Image):
            raise ValueError(f"dataset.image={image}: holds {kind(table.features[image])}; wanted are images")
        if not len(table):
            raise ValueError(f"dataset.path={path}: its split {split} is empty")
        labels = None if label is None else read_labels(table, label)
        encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return image_samples(
        Rows(encoded, image, path),
        labels,
        where=f"dataset.path={path}",
        broken=broken,
        held_out=held_out,
        image_size=image_size,
        channels=channels,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
    )


def load_table(path: str, name: str | None, split: str, *, download: bool) -> Any:
    """The split of a dataset, as `datasets.Dataset`. Raises ValueError where it cannot be had."""
    import datasets

    folder = Path(path).expanduser().absolute()
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            return split_of_saved(datasets.load_from_disk(str(folder)), split, path)
        is_local = folder.exists()
        with contextlib.nullcontext() if download else without_network():
            return datasets.load_dataset(str(folder) if is_local else path, name, split=split)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
        if str(error).startswith("dataset."):
            raise
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        hint = "" if download or folder.exists() else "; dataset.download=true fetches a dataset from the hub"
        raise ValueError(f"dataset.path={path}: cannot be loaded ({first}){hint}") from error


def split_of_saved(found: Any, split: str, path: str) -> Any:
    """A split, or a slice of it such as train[:10%], of what was saved: a dataset of several, or one alone."""
    import datasets

    name = split.partition("[")[0]
    if isinstance(found, datasets.Dataset):  # which need not know its name
        found = {str(found.split or name).partition("[")[0]: found}
    if name not in found:
        raise ValueError(f"dataset.split={split}: {path} has {', '.join(found)}")
    table = found[name]
    if name == split:
        return table
    (part,) = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(table)})
    return table.select(range(part.from_, part.to))


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Have `datasets` take what its cache has. Both libraries read HF_HUB_OFFLINE once, when they are imported, so the
    switches are set in their modules."""
    import datasets
    import huggingface_hub

    switches = [(datasets.config, "HF_HUB_OFFLINE"), (datasets.config, "HF_DATASETS_OFFLINE")]
    switches += [(huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, switch) for module, switch in switches]
    for module, switch in switches:
        setattr(module, switch, True)
    try:
        yield
    finally:
        for (module, switch), value in zip(switches, before, strict=True):
            setattr(module, switch, value)


@contextlib.contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no notes of the library."""
    shows, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not shows:
            datasets.enable_progress_bars()


def read_labels(table: Any, column: str) -> Tensor:
    """A column of class labels or whole numbers from 0, (N,). Raises ValueError for any other, or a gap in it."""
    feature = table.features[column]
    if not kind(feature).startswith(("int", "uint")):
        found = kind(feature)
        raise ValueError(f"dataset.label={column}: holds {found}; wanted are class labels, or whole numbers from 0")
    values = table.select_columns([column]).with_format("arrow")[:][column]
    if values.null_count:
        raise ValueError(f"dataset.label={column}: {values.null_count:,} of {len(values):,} are missing")
    labels = torch.from_numpy(values.to_numpy().astype(np.int64))
    if int(labels.min()) < 0:
        raise ValueError(f"dataset.label={column}: holds {int(labels.min())}; wanted are whole numbers from 0")
    return labels


def kind(feature: Any) -> str:
    """A column's type, in a word."""
    return str(getattr(feature, "dtype", type(feature).__name__))


class Row(NamedTuple):
    """The image of a row, as it is encoded."""

    table: Any
    column: str
    number: int
    dataset: str

    @property
    def config_key(self) -> str:
        """The key that messages name."""
        return "dataset.path"

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Its bytes, from the table or from the file that this names. Raises ValueError where there are none."""
        found = self.table[self.number][self.column]
        if found is None:
            raise ValueError("is missing")
        if found["bytes"] is not None:
            return io.BytesIO(found["bytes"])
        return open(found["path"], mode)

    def __str__(self) -> str:
        return f"{self.dataset}/row {self.number:,}"


class Rows(Sequence[File]):
    """The images in a column of a table, which stay in its files."""

    def __init__(self, table: Any, column: str, dataset: str):
        self.table, self.column, self.dataset = table, column, dataset

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # nobody takes slices
        if not 0 <= index < len(self):  # which ends an iteration
            raise IndexError(index)
        return Row(self.table, self.column, index, self.dataset)
