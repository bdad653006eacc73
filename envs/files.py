"""The standard files of MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, read from disk and checked.

Nothing in a file can run code: of CIFAR the binary version is read, not the pickled one. Files may be compressed (.gz)
or not. Reading checks sizes and headers; envs/download.py, which gets the files, checks the checksums that the data
sets' own pages publish.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isorl.configs import UserError

Labelled = tuple[np.ndarray, np.ndarray]
"""(N, C, H, W) uint8 images, (N,) int64 labels."""

UBYTE = 0x08  # the idx format's code for unsigned bytes


@dataclass(frozen=True)
class Source:
    """Says where the files of a data set come from, and the MD5 of each as offered there."""

    url: str
    md5: dict[str, str]
    unpack: str = ""


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        unpack="tar --strip-components=1 -xzf cifar-10-binary.tar.gz",
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        unpack="tar --strip-components=1 -xzf cifar-100-binary.tar.gz",
    ),
}


def read_mnist(folder: Path, split: str) -> Labelled:
    """Reads MNIST (LeCun et al. 1998), 28x28, from its four idx files in `folder`."""
    stem = "train" if split == "train" else "t10k"
    images = read_idx(_find(folder, f"{stem}-images-idx3-ubyte"), dimensions=3)
    labels = read_idx(_find(folder, f"{stem}-labels-idx1-ubyte"), dimensions=1)
    return images[:, None], labels.astype(np.int64)


def read_fashion_mnist(folder: Path, split: str) -> Labelled:
    """Reads Fashion-MNIST (Xiao et al. 2017): the same files by name."""
    return read_mnist(folder, split)


def read_cifar10(folder: Path, split: str) -> Labelled:
    """Reads CIFAR-10 (Krizhevsky 2009), 3x32x32: records of 1 label and 3,072 pixels."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    parts = [read_cifar(_find(folder, name), label_bytes=1) for name in names]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def read_cifar100(folder: Path, split: str) -> Labelled:
    """Reads CIFAR-100 with its 100 fine labels: records of a coarse label, a fine label and 3,072 pixels."""
    return read_cifar(_find(folder, f"{split}.bin"), label_bytes=2)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file: two zeros, the type, the number of dimensions, their big-endian sizes, the values.

    Raises:
        UserError: another format, or a file that is too short or too long.
    """
    content = _content(path)
    header = np.frombuffer(content[:4].ljust(4, b"\0"), dtype=np.uint8)
    if header[0] or header[1] or header[2] != UBYTE or header[3] != dimensions:
        raise UserError(
            f"'{path}' does not begin as an idx file of {dimensions}-dimensional bytes. {_advice(path)}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise UserError(f"'{path}' ends within its header: it is cut short. {_advice(path)}")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    if len(content) - start != np.prod(shape):
        raise UserError(
            f"'{path}' announces {'x'.join(map(str, shape))} bytes but holds {len(content) - start:,}: it is "
            f"damaged or cut short. {_advice(path)}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_cifar(path: Path, label_bytes: int) -> Labelled:
    """Reads records of `label_bytes` labels, of which the last counts, and 3 planes of 32x32 pixels.

    Raises:
        UserError: a file that is no whole number of records.
    """
    content = np.frombuffer(_content(path), dtype=np.uint8)
    record = label_bytes + 3 * 32 * 32
    if not len(content) or len(content) % record:
        raise UserError(
            f"'{path}' has {len(content):,} bytes, no whole number of records of {record:,}: it is damaged or cut "
            f"short. {_advice(path)}"
        )
    records = content.reshape(-1, record)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1].astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise UserError(f"There is no '{folder / name}' (nor .gz). {_advice(folder / name)}")


def _advice(path: Path) -> str:
    """How to get the files again."""
    source = SOURCES.get(path.parent.name)
    if source is None:
        return "Get it again from its source."
    unpack = f" and unpack with: {source.unpack}" if source.unpack else ""
    get = f"Get it with: python -m isorl.envs.download {path.parent.name}. Or put"
    return f"{get} {', '.join(source.md5)} from {source.url} into '{path.parent}'{unpack}"


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise UserError(f"'{path}' cannot be read: {error}. {_advice(path)}") from None
