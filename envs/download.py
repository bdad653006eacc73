"""Gets the standard files of data sets, checked against their published MD5.

    python -m isorl.envs.download mnist cifar100

They go where the streams look for them: into the folder that ISORL_DATA names (default: ./data).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from isorl.configs import UserError, nearest
from isorl.envs.data import folder
from isorl.envs.files import SOURCES


def download(name: str, into: Path) -> None:
    """Puts the files of the data set `name` into the folder `into`; what is there and sound is left alone.

    Raises:
        UserError: no such data set, no network, or what came is not what was published.
    """
    if name not in SOURCES:
        raise UserError(f"There is no data set '{name}' to download. {nearest(name, SOURCES)}")
    try:
        import pooch
    except ImportError:
        raise UserError("Downloads need the package pooch: pip install -e '.[data]'") from None
    source = SOURCES[name]
    for file, md5 in source.md5.items():
        try:
            pooch.retrieve(
                f"{source.url}{file}", f"md5:{md5}", fname=file, path=into, progressbar=sys.stderr.isatty()
            )
        except (OSError, ValueError) as error:  # no connection or no such file there; another checksum
            raise UserError(f"'{file}' could not be had from {source.url}: {error}") from error
        if file.endswith(".tar.gz"):
            _unpack(into / file)


def _unpack(archive: Path) -> None:
    """Unpacks the archive's files into its own folder, without the folder they stand in."""
    unpacked = archive.parent / "unpacked"
    shutil.unpack_archive(archive, unpacked, filter="data")  # nothing can leave the folder
    for path in sorted(unpacked.rglob("*")):
        if path.is_file():
            path.replace(archive.parent / path.name)
    shutil.rmtree(unpacked)


def main() -> None:
    """Downloads what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(SOURCES))
    try:
        for name in parser.parse_args().names:
            download(name, folder() / name)
            print(folder() / name)
    except UserError as error:
        print(f"envs.download: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
