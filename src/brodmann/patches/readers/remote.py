"""Sections on servers: neuroglancer precomputed and OME-Zarr over http(s), Google Cloud and S3, through tensorstore.

Nothing here runs unless it is called with an address: no sidecar and no command can open a connection. tensorstore
(``pip install 'brodmann[fast]'``) does the talking, with its retries and the machine's credentials; formats, sizes and
names are checked as those of local files are, and blocks are cached in memory only.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import numpy as np

from brodmann.errors import BrodmannError, Corrupt, Refused, Unwritable
from brodmann.patches.image import Image, ImageSection
from brodmann.patches.readers.chunks import Header, Read, remote_opener
from brodmann.patches.readers.files import LIMIT_JSON_BYTES
from brodmann.patches.readers.placing import content_of, placed
from brodmann.patches.readers.sidecar import Entry, Stated
from brodmann.patches.source import Source
from brodmann.sidecar import inside
from brodmann.space import unregistered

SCHEMES = ("http", "https", "gs", "s3")
RETRIES, WAIT_S = 4, 120
"""How often a request is repeated, and how long an answer may take in all."""


class Server:
    """Files of a volume on a server; satisfies `brodmann.patches.readers.files.Files`.

    Parameters
    ----------
    address : str
        Folder of the volume: ``https://``, ``http://``, ``gs://`` or ``s3://``.

    Raises
    ------
    Refused
        Another kind of address, or tensorstore is not installed.
    """

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        try:
            import tensorstore
        except ImportError as error:
            raise Refused(
                f"reading {self.name} needs the package tensorstore.", do="pip install 'brodmann[fast]'."
            ) from error
        parts = urlsplit(self.name)
        if parts.scheme not in SCHEMES or parts.query or parts.username is not None:
            raise Refused(
                "sections on servers should be named by an address.",
                found=f"'{parts.scheme}://{parts.hostname or ''}...'" if parts.scheme else repr(address)[:100],
                cause="a password or a token in it would end up in reports." if parts.scheme in SCHEMES else "",
                do=f"start it with {', '.join(SCHEMES)}://, without a user or a query.",
            )
        try:
            self._store: Any = cast("Any", tensorstore).KvStore.open(f"{self.name}/", context=_context()).result(WAIT_S)
        except Exception as error:
            raise Refused(f"{self.name} should be an address.", found=str(error)[:200]) from error

    def fetch(self, key: str, *, limit: int, span: tuple[int, int] | None = None) -> bytes | None:
        """See `brodmann.patches.readers.files.Files.fetch`.

        Raises
        ------
        Unwritable
            The server refuses or does not answer.
        """
        part = {} if span is None else {"byte_range": slice(*span)}
        try:
            if span is not None and span[1] - span[0] > limit:
                raise Corrupt(f"{key} of {self.name} should be at most {limit:,} bytes.", found=f"bytes {span}.")
            found: Any = self._store.read(key, **part).result(WAIT_S)
        except BrodmannError:
            raise
        except Exception as error:
            if "OUT_OF_RANGE" in str(error):
                raise Corrupt(f"{key} of {self.name} should hold bytes {span}.", found=str(error)[:200]) from error
            raise Unwritable(
                f"{key} of {self.name} should be read.",
                found=str(error)[:300] or type(error).__name__,
                cause="no connection, no permission, or a server that is down.",
                do="try again later; download the data for long work.",
            ) from error
        if found.state == "missing":
            return None
        data = bytes(found.value)
        if len(data) > limit:
            raise Corrupt(f"{key} of {self.name} should be at most {limit:,} bytes.", found=f"{len(data):,}.")
        return data

    def listed(self, key: str) -> Iterator[str] | None:
        """Servers are not asked for lists: None."""
        return None


def read(addresses: str | Sequence[str], stated: Stated | None = None) -> Source:
    """Open sections on servers, one for each address (and for each stated slice of a volume).

    Parameters
    ----------
    addresses : str or sequence of str
        Folders that hold ``info`` (precomputed) or the metadata of an OME-Zarr image; ``precomputed://`` and
        ``zarr://`` before them are passed over, ``file://`` leads to a local folder.
    stated : Stated, optional
        What a ``sections.json`` would state; its entries are found by ``file``, which is the address. Points are not
        read here: set ``section.points``.

    Returns
    -------
    Source
        Its fingerprint follows the addresses and the volumes' metadata, since pixels are not read at opening.

    Raises
    ------
    Refused
        An address that is none, tensorstore missing, or no section that can be read; each one's reason is said.
    """
    stated = stated or Stated()
    wanted = [addresses] if isinstance(addresses, str) else list(addresses)
    space = stated.named_space()
    sections: list[ImageSection] = []
    skipped: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for address in wanted:
        for entry in [e for e in stated.sections or [] if e.file == address] or [Entry(file=address)]:
            try:
                picture, said = _image(_plain(address), entry, stated)
                section = placed(picture, entry, stated, name=_name(address), space=space)
                if any(section.id == other.id for other in sections):
                    raise Refused("section ids should be unique.", found=f"'{section.id}' twice.", do="state id.")
            except BrodmannError as error:
                skipped.append((_shown(address), str(error)))
                continue
            section.subject = stated.of(entry, "subject") or "remote"
            if urlsplit(address).scheme != "file":
                section.notes.append("read from a server: the fingerprint does not follow its pixels")
            digest.update(repr((address, entry.slice, section.id, section.subject, section.native_um)).encode() + said)
            digest.update(section.to_mm.tobytes())
            sections.append(section)
    if not sections:
        reasons = "\n    ".join(f"{name}: {reason}" for name, reason in skipped[:10])
        raise Refused("at least one section should be readable.", found=f"none of {len(wanted)}.\n    {reasons}")
    if space is None:
        space = unregistered(max(s.width_um for s in sections) / 1000, max(s.height_um for s in sections) / 1000)
    else:
        centres = [s.place(np.array([[s.width_um / 2, s.height_um / 2]]))[0] for s in sections]
        space.check(np.array(centres), what="centres of the sections")
    return Source(
        space=space,
        sections=list(sections),
        fingerprint=digest.hexdigest(),
        name=_name(wanted[0]),
        skipped=skipped,
        reader="server",
    )


@cache
def _context() -> Any:
    import tensorstore

    wait = {"max_retries": RETRIES, "initial_delay": "200ms", "max_delay": "4s"}
    # Blocks are cached by `blocks`; what is read here is kept nowhere.
    limits = {"cache_pool": {"total_bytes_limit": 0}}
    return cast("Any", tensorstore).Context(
        limits | {f"{kind}_request_retries": wait for kind in ("http", "gcs", "s3")}
    )


def _plain(address: str) -> str:
    return address.removeprefix("precomputed://").removeprefix("zarr://")


def _shown(address: str) -> str:
    """Address for messages: without what could be secret in it."""
    parts = urlsplit(_plain(address))
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else address


def _name(address: str) -> str:
    """Last telling part of an address: ``.../B20_3905/precomputed`` is B20_3905."""
    parts = [part for part in PurePosixPath(urlsplit(_plain(address)).path).parts if part not in {"/", "precomputed"}]
    return PurePosixPath(parts[-1]).stem if parts else "volume"


def _image(address: str, entry: Entry, stated: Stated) -> tuple[Image, bytes]:
    """Open one volume; also its metadata, as bytes for the fingerprint."""
    if urlsplit(address).scheme == "file":
        from brodmann.patches import readers

        path = Path(unquote(urlsplit(address).path))
        return readers.image(path, entry, stated), content_of(path.parent, path).digest()
    channel, span, absent = (stated.of(entry, key) for key in ("channel", "range", "absent_value"))
    server = Server(address)
    info = server.fetch("info", limit=LIMIT_JSON_BYTES)
    if info is not None:
        from brodmann.patches.readers.precomputed import Precomputed

        axis = stated.of(entry, "axis")
        return Precomputed(server, channel=channel, span=span, absent=absent, axis=axis, number=entry.slice), info
    from brodmann.patches.readers.omezarr import OmeZarr

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / _name(address)
        said = _copy_metadata(server, copy)

        def opened(head: Header) -> Read:
            return remote_opener(head, f"{server.name}/{head.path.relative_to(copy).as_posix()}/", _context())

        picture = OmeZarr(copy, channel=channel, span=span, absent=absent, opened=opened)
    return picture, said


def _copy_metadata(server: Server, folder: Path) -> bytes:
    """Copy what a store says of itself, so that it is checked as a local one is; refused when it is none."""
    folder.mkdir()
    said = b""
    where = [""]
    for name in ("zarr.json", ".zattrs"):
        data = server.fetch(name, limit=LIMIT_JSON_BYTES)
        if data is None:
            continue
        (folder / name).write_bytes(data)
        said += data
        try:
            content: Any = json.loads(data)
            attributes = content.get("attributes", content)
            scales = attributes.get("ome", attributes).get("multiscales") or [{"datasets": []}]
            where = [str(item["path"]) for item in scales[0]["datasets"]][:64]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise Corrupt(f"{name} of {server.name} should describe an image.", found=repr(error)[:200]) from error
        break
    else:
        raise Refused(f"{server.name} should hold a volume.", found="neither info nor zarr.json nor .zattrs.")
    for path in where:
        inside(folder, path).mkdir(parents=True, exist_ok=True)
        for name in ("zarr.json", ".zarray"):
            data = server.fetch(f"{path}/{name}", limit=LIMIT_JSON_BYTES)
            if data is not None:
                (inside(folder, path) / name).write_bytes(data)
                said += data
    return said
