"""Images in tar shards, as WebDataset lays them out, read in any order through an index of where each one lies.

Aizman, Maltzahn, Breuel, "High Performance I/O For Large Scale Deep Learning" (2019, arXiv:2001.01858). Its own reader
passes over shards from end to end and shuffles what it has in a buffer; here a batch is a function of seed and step, so
that a resumed run goes on with the very samples that would have come.
"""

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from glob import escape, glob
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import torch

from gan_runner.datasets.data import Data, Normalization
from gan_runner.datasets.encoded import Broken, Headers, Picked, image_samples, left_out
from gan_runner.datasets.images import Channels, File, Fraction, ImageSize, in_threads, size_and_colour
from gan_runner.datasets.on_disk import UnreadableError
from gan_runner.storage.cache import cached, content_key

SUFFIXES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"
NO_LABEL = -1
NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")  # a sample's key, and what of it a member holds: WebDataset's own rule
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
INDEX_VERSION = 1


def webdataset(
    *,
    path: str,
    broken: Broken,
    held_out: Fraction,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool,
    seed: int,
) -> Data:
    """The images (.jpg, .jpeg, .png, .webp) in tar files, with the labels in `.cls` beside them, if there are any.

    A sample's members follow on each other and are called alike up to the first dot. Other members are passed over.
    Each shard is read through once, for an index of offsets, sizes and labels that the cache keeps as long as the shard
    stays as it is. Images are decoded once, at the start; or, if they would take more than half of the memory, whenever
    they are read.

    path: a shard, a folder of shards (*.tar), a pattern with * or ?, or a range as in `train-{000..127}.tar`.
    broken: what to do with a sample that has no image or no label, where others have one, with an image that cannot be
        decoded, and with what follows on the damage in a shard; skip = leave it out, named and counted in the log.
    channels: None = 3 if an image is stored in colour, else 1.

    Raises ValueError that names the key and the place, or what is broken or of another size.
    """
    shards = find_shards(path)
    indices = list(in_threads(shard_index, shards))
    faults = [f"{shard}: {fault}" for shard, index in zip(shards, indices, strict=True) for fault in index["faults"]]
    files: Sequence[File] = Members(shards, indices)
    labels, sizes, in_colour = (torch.cat([index[name] for index in indices]) for name in ("labels", "sizes", "colour"))
    headers = Headers(sizes, in_colour)
    has_label = labels != NO_LABEL
    if has_label.any() and not has_label.all():
        unlabelled = (~has_label).nonzero().flatten().tolist()
        faults += [f"{files[row]} has no .{LABEL}, and others have one" for row in unlabelled]
        rows = has_label.nonzero().flatten()
        files, labels, headers = Picked(files, rows), labels[rows], headers.of(rows)
    if faults and broken == "error":
        raise UnreadableError(f"dataset.path: {faults[0]}; dataset.broken=skip leaves such samples out")
    if not len(files):
        reason = f" ({faults[0]})" if faults else ""
        raise ValueError(f"dataset.path={path}: holds no image ({', '.join(SUFFIXES)}){reason}")
    return image_samples(
        files,
        labels if has_label.any() else None,
        where=f"dataset.path={path}",
        headers=headers,
        broken=broken,
        held_out=held_out,
        image_size=image_size,
        channels=channels,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
        notes=[left_out(faults, len(files) + len(faults), "as they are no whole samples")] if faults else [],
    )


def find_shards(path: str) -> list[Path]:
    """The shards that `dataset.path` names, sorted. Raises ValueError where there are none, or one is not there."""
    place = str(Path(path).expanduser().absolute())
    if found := re.search(r"\{(\d+)\.\.(\d+)\}", place):
        first, last = found.groups()
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        names = [place[: found.start()] + number + place[found.end() :] for number in numbers]
    elif os.path.isdir(place):
        names = sorted(glob(f"{escape(place)}/*.tar"))
    else:
        names = [place] if os.path.exists(place) or not re.search(r"[*?[]", place) else sorted(glob(place))
    shards = [Path(name) for name in names]
    if not shards:
        raise ValueError(f"dataset.path={path}: no tar file there")
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise ValueError(f"dataset.path={path}: no such file: {missing[0]}")
    return shards


class Member(NamedTuple):
    """A file in a shard, by its place there."""

    shard: Path
    offset: int
    length: int
    name: str

    @property
    def config_key(self) -> str:
        """The key that messages name."""
        return "dataset.path"

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Its bytes. Raises EOFError where the shard has become shorter."""
        with self.shard.open("rb") as shard:  # 20 us, beside the 200 us that an image takes to decode
            shard.seek(self.offset)
            found = shard.read(self.length)
        if len(found) < self.length:
            raise EOFError(f"{len(found):,} of its {self.length:,} bytes are there")
        return io.BytesIO(found)

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


class Members(Sequence[File]):
    """The images of shards, one after another, of which only places and names are held."""

    def __init__(self, shards: Sequence[Path], indices: Sequence[dict[str, Any]]):
        counts = torch.tensor([len(index["offsets"]) for index in indices])
        self.shards = shards
        self.shard = torch.arange(len(shards)).repeat_interleave(counts)
        self.offsets, self.lengths = (torch.cat([index[name] for index in indices]) for name in ("offsets", "lengths"))
        self.names = b"".join(index["names"].numpy().tobytes() for index in indices)
        self.name_ends = torch.cat([index["name_lengths"] for index in indices]).cumsum(0)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Member:  # type: ignore[override]  # nobody takes slices
        if not 0 <= index < len(self):  # which ends an iteration
            raise IndexError(index)
        name = self.names[int(self.name_ends[index - 1]) if index else 0 : int(self.name_ends[index])]
        place = int(self.offsets[index]), int(self.lengths[index])
        return Member(self.shards[int(self.shard[index])], *place, name.decode(errors="surrogateescape"))


# --- the index of a shard ---------------------------------------------------------------------------------------------


def shard_index(shard: Path) -> dict[str, Any]:
    """The index of a shard, from the cache where that knows the file as it is now."""
    state = shard.stat()
    key = content_key(str(shard), state.st_size, state.st_mtime_ns, INDEX_VERSION)
    return cached(f"webdataset-{key}.pt", lambda: make_index(shard))


def make_index(shard: Path) -> dict[str, Any]:
    """Read a shard through: of the N images in it, in the order of the file,

    offsets, lengths: (N,) of their bytes in the shard; names, name_lengths: UTF-8, one behind the other, and (N,);
    sizes: (N, 2), height and width; colour: (N,); labels: (N,), -1 = none;
    faults: a line on each sample that is none, and on the damage at which the shard ends.
    """
    found: list[tuple[Member, tuple[int, int], bool, int]] = []
    faults: list[str] = []
    for key, members in groupby(members_of(shard, faults.append), lambda member: member[0]):
        try:
            found.append(read_sample(shard, key, {suffix: member for _, suffix, member in members}))
        except UnreadableError as error:
            faults.append(str(error))
    names = [member.name.encode(errors="surrogateescape") for member, *_ in found]
    return {
        "offsets": torch.tensor([member.offset for member, *_ in found], dtype=torch.int64),
        "lengths": torch.tensor([member.length for member, *_ in found], dtype=torch.int64),
        "names": torch.frombuffer(bytearray(b"".join(names) or b"\0"), dtype=torch.uint8)[: sum(map(len, names))],
        "name_lengths": torch.tensor([len(name) for name in names], dtype=torch.int64),
        "sizes": torch.tensor([size for _, size, _, _ in found], dtype=torch.int64).view(-1, 2),
        "colour": torch.tensor([colour for *_, colour, _ in found], dtype=torch.bool),
        "labels": torch.tensor([label for *_, label in found], dtype=torch.int64),
        "faults": faults,
    }


def members_of(shard: Path, damaged: Callable[[str], None]) -> Iterator[tuple[str, str, Member]]:
    """(key, suffix, member) of each file in a shard; where it is damaged they end, and `damaged` is told why."""
    with shard.open("rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # which it would keep
                    base = member.name.rpartition("/")[2]
                    parts = NAME.fullmatch(member.name)
                    if member.isreg() and parts and not base.startswith((".", "__")):
                        name = Member(shard, member.offset_data, member.size, member.name)
                        yield parts[1], parts[2].lower(), name
                end = archive.offset
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            stream.seek(0)
            start = stream.read(6)
            packed = next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
            damaged(f"packed by {packed}, and no offset leads into it: unpack it" if packed else f"damaged ({error})")
            return
        stream.seek(end)  # tarfile takes a broken header for the end
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            damaged(f"damaged after {end:,} bytes: no member, and not the end, follows there")


def read_sample(shard: Path, key: str, members: dict[str, Member]) -> tuple[Member, tuple[int, int], bool, int]:
    """The image of a sample, its size, whether it is in colour, and the label.

    Raises UnreadableError, which names the sample, where that is none.
    """
    images = [member for suffix, member in members.items() if suffix in SUFFIXES]
    if len(images) != 1:
        has = "several images" if images else f"no image ({', '.join(SUFFIXES)})"
        raise UnreadableError(f"sample {key} has {has}")
    label = NO_LABEL
    if LABEL in members:
        try:
            text = members[LABEL].open("rb").read(32).strip()
        except (OSError, EOFError) as error:
            raise UnreadableError(f"{key}.{LABEL} cannot be read ({error})") from error
        if not re.fullmatch(rb"\d{1,18}", text):
            shown = text.decode(errors="replace")
            raise UnreadableError(f"{key}.{LABEL} holds {shown!r}; wanted is a whole number from 0")
        label = int(text)
    try:
        return images[0], *size_and_colour(images[0]), label
    except UnreadableError as error:
        reason = error.__cause__
        raise UnreadableError(f"{images[0].name} is no readable image ({type(reason).__name__}: {reason})") from error
