"""Updates: a patch turns one artefact into another, tensor by tensor, and is a fraction of its size.

A patch is `MAGIC`, the packed header with its length before it, the packed streams, and the SHA-256 of all that. The
header (JSON) says which artefact is updated, by the hash of its manifest, and of each new file its hash and its parts:
`[length, begin, bits]`, of which `begin` is where the old file of that name holds what the part differs from, -1 where
the part is given whole. Parts of `bits` 0 are copies; of others the differences (`tensor_delta.py`) are in the streams.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from io import BytesIO
from pathlib import Path
from typing import Annotated

import msgspec

from autocompress.artifact.contents import manifest_text, unchanged_file
from autocompress.artifact.manifest import MANIFEST, MOST_BYTES, SIGNATURE, Manifest, is_plain, parse
from autocompress.artifact.options import Trust
from autocompress.artifact.plain_file import plain_file
from autocompress.artifact.signature import check_signature
from autocompress.artifact.tensor_delta import LEGAL_BITS, applied, difference
from autocompress.core.files import write_folder
from autocompress.core.spans import Span
from autocompress.errors import EnvironmentFault, InputError, TrialError
from autocompress.formats.table import FORMATS, reader_named

MAGIC = b"autocompress-patch-1\n"
HASH_BYTES, LENGTH_BYTES = 32, 8
# Streams by what is in them: whole parts, and differences of bytes or packed codes, and of numbers of several bytes.
LITERAL, CODES, NUMBERS = "literal", "codes", "numbers"
STREAMS = (LITERAL, CODES, NUMBERS)
# Bytes of the new artefact for each of the old one and of the patch together: real networks stay far below.
MOST_GROWTH, LEAST_LIMIT = 64, 2**24
# LZMA of the standard library, set for numbers without order: within 7% of their entropy on 4-bit codes, as zstandard
# at its 19th level, in a fifth of its time. Its matches find little there, its range coder does the work.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0, "mode": lzma.MODE_NORMAL, "nice_len": 273,
            "mf": lzma.MF_HC4, "depth": 4}]
# Text files of so many lines are compared line by line.
MOST_LINES = 5000

Part = tuple[int, int, int]


class _File(msgspec.Struct):
    """A file of the new artefact."""

    name: str
    sha256: str
    bytes: int
    parts: list[Part]


class _Header(msgspec.Struct):
    """What a patch says: the hash of the old manifest, the new files, and the bytes of the packed streams."""

    old: str
    files: list[_File]
    streams: list[Annotated[int, msgspec.Meta(ge=0)]]


@dataclass(frozen=True)
class _Stored:
    """The files of an artefact as they lie in its folder, manifest and signature among them."""

    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.files[MANIFEST]).hexdigest()


def make_patch(old: Path | str, new: Path | str) -> bytes:
    """The patch that turns the artefact in `old` into that in `new`.

    Raises:
        InputError: where one of them is no whole artefact.
    """
    before, after = _stored(Path(old)), _stored(Path(new))
    streams: dict[str, list[bytes]] = {name: [] for name in STREAMS}
    files = []
    for name, data in after.files.items():
        parts = _parts(before, after, name)
        files.append(_File(name, hashlib.sha256(data).hexdigest(), len(data), parts))
        at = 0
        for length, begin, bits in parts:
            content = data[at:at + length]
            at += length
            if begin < 0 or bits:
                source = before.files[name][begin:begin + length] if begin >= 0 else b""
                streams[_stream(begin, bits)].append(difference(source, content, bits) if begin >= 0 else content)
    packed = {name: _packed(b"".join(pieces)) for name, pieces in streams.items()}
    head = _packed(msgspec.json.encode(_Header(before.fingerprint, files, [*map(len, packed.values())])))
    body = MAGIC + len(head).to_bytes(LENGTH_BYTES, "little") + head + b"".join(packed.values())
    return body + hashlib.sha256(body).digest()


def _stored(folder: Path) -> _Stored:
    text = manifest_text(folder)
    manifest, _ = parse(text, str(folder / MANIFEST))
    files = {MANIFEST: text, **{name: unchanged_file(folder, manifest, name) for name in manifest.files}}
    if (folder / SIGNATURE).exists():
        files[SIGNATURE] = plain_file(folder / SIGNATURE, 2**10)
    return _Stored(manifest, files)


def _parts(before: _Stored, after: _Stored, name: str) -> list[Part]:
    """How a new file is made of the old one of its name."""
    new, old = after.files[name], before.files.get(name)
    if old is None:
        return [(len(new), -1, 8)]
    if new == old:
        return [(len(new), 0, 0)] if new else []
    spans = _spans(before, name), _spans(after, name)
    if spans[0] and spans[1]:
        return list(_by_tensor(*spans, len(old), len(new)))
    if len(new) == len(old):
        return [(len(new), 0, 8)]
    return list(_by_line(old, new))


def _spans(stored: _Stored, name: str) -> dict[str, Span]:
    """Where a file holds its tensors, as far as its format tells."""
    if name != stored.manifest.model or stored.manifest.format not in FORMATS:
        return {}
    try:
        spans: dict[str, Span] = reader_named(stored.manifest.format).tensor_spans(stored.files[name])
    except TrialError:
        return {}
    return spans


def _by_tensor(old: Mapping[str, Span], new: Mapping[str, Span], old_end: int, new_end: int) -> Iterator[Part]:
    """Tensors of one name and size as differences, and so what stands between two of them."""
    at, old_at = 0, 0
    for name, span in (*new.items(), ("", Span(new_end, 0))):
        old_span = old.get(name) if span.length else Span(old_end, 0)
        gap = span.begin - at
        same_gap = old_span is not None and old_span.begin - old_at == gap
        if gap:
            yield (gap, old_at, 8) if same_gap else (gap, -1, 8)
        if span.length:
            same = old_span is not None and old_span[1:] == span[1:]
            yield (span.length, old_span.begin, span.bits) if same and old_span else (span.length, -1, 8)
        at = span.begin + span.length
        old_at = old_span.begin + old_span.length if old_span is not None else -1


def _by_line(old: bytes, new: bytes) -> Iterator[Part]:
    """Lines that both have as copies."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if max(len(before), len(after)) > MOST_LINES:
        yield len(new), -1, 8
        return
    places = [0]
    for line in before:
        places.append(places[-1] + len(line))
    for _, begin, end, first, last in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        length = sum(map(len, after[first:last]))
        if length:
            copied = before[begin:end] == after[first:last]
            yield (length, places[begin], 0) if copied else (length, -1, 8)


def size_of(folder: Path | str) -> int:
    """The bytes of all files of the artefact in a `folder`."""
    return sum(map(len, _stored(Path(folder)).files.values()))


def read_patch(path: Path) -> bytes:
    """The content of a patch's file, `path`. InputError where it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"a patch must be a file that can be read, but {path}: {reason}") from None


def is_patch(path: Path) -> bool:
    """Whether the file at `path` begins like a patch, of any release."""
    return read_patch(path).startswith(MAGIC[:len(b"autocompress-patch-")])


def updated(old: Path, patch: bytes, out: Path, key: Path | str | None = None) -> None:
    """Write the artefact that a patch makes of that in `old` into a folder of its own, whole or not at all.

    Args:
        old: folder of the artefact that is updated; it stays.
        patch: what `make_patch` gave.
        out: a folder that is not there yet, or is empty.
        key: file of the public key by whose owner the new artefact must be signed.

    Raises:
        InputError: where the patch cannot be carried out, the outcome is no artefact or not signed as asked for, or
            `out` is taken.
        EnvironmentFault: when the disk gives out.
    """
    trust = Trust.of(key)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out must be a new folder for the updated artefact, but {out} is there: the old one stays "
                         "until you remove it")
    files = apply_patch(old, patch)
    manifest, _ = parse(files[MANIFEST])
    wrong = [name for name, facts in manifest.files.items()
             if name not in files or hashlib.sha256(files[name]).hexdigest() != facts.sha256]
    if wrong:
        raise InputError(f"the patch must make an artefact, but {wrong[0]} is not what its manifest says")
    if trust.signer is not None:
        check_signature(files.get(SIGNATURE), files[MANIFEST], trust.signer)
    try:
        write_folder(out, files)
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"--out must be a folder below other folders, but a part of {out} is a file") from error
    except OSError as error:
        raise EnvironmentFault(f"{out} could not be written: {error.strerror}; free space or choose another folder. "
                               f"{old} is as it was") from error


def apply_patch(old: Path | str, patch: bytes) -> dict[str, bytes]:
    """The files of the new artefact, by name, each with the hash that the patch says.

    Args:
        old: folder of the artefact that is updated.
        patch: what `make_patch` gave.

    Raises:
        InputError: where the patch is cut or changed, of a newer release, or for another artefact.
    """
    header, streams = _opened(patch)
    before = _stored(Path(old))
    if header.old != before.fingerprint:
        raise InputError(f"the patch must be for this artefact, but is for one whose {MANIFEST} has sha256 "
                         f"{header.old[:12]}…, and that of {old} has {before.fingerprint[:12]}…")
    total, held = sum(file.bytes for file in header.files), sum(map(len, before.files.values()))
    if total > max(LEAST_LIMIT, MOST_GROWTH * (held + len(patch))):
        raise InputError(f"a patch must unpack to at most {MOST_GROWTH} times the artefact and itself, but declares "
                         f"{total:,} bytes: refused, it may be a bomb")
    return _rebuilt(header.files, before.files, streams)


def _rebuilt(files: list[_File], old: Mapping[str, bytes], packed: Mapping[str, bytes]) -> dict[str, bytes]:
    """The new files, of the old ones and the streams."""
    sizes = dict.fromkeys(STREAMS, 0)
    for file in files:
        for length, begin, bits in file.parts:
            if begin < 0 or bits:
                sizes[_stream(begin, bits)] += length
    streams = {name: BytesIO(_unpacked(packed[name], size)) for name, size in sizes.items()}
    rebuilt = {}
    for file in files:
        source = old.get(file.name, b"")
        pieces = []
        for length, begin, bits in file.parts:
            reference = source[begin:begin + length] if begin >= 0 else b""
            if begin >= 0 and len(reference) != length:
                raise InputError("a patch must refer to what the old artefact holds, but does not")
            content = streams[_stream(begin, bits)].read(length) if begin < 0 or bits else reference
            pieces.append(applied(reference, content, bits) if begin >= 0 and bits else content)
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise InputError(f"{file.name} must come out with the hash that the patch says, but does not")
        rebuilt[file.name] = data
    return rebuilt


def _stream(begin: int, bits: int) -> str:
    """The stream that a part is in."""
    return LITERAL if begin < 0 else CODES if bits <= 8 else NUMBERS


def _opened(patch: bytes) -> tuple[_Header, dict[str, bytes]]:
    """The header of a patch, and its streams as they are packed."""
    if not patch.startswith(MAGIC):
        newer = patch.startswith(MAGIC[:len(b"autocompress-patch-")])
        raise InputError("a patch must be what `autocompress diff` wrote, but " + (
            "this is of another release: update autocompress" if newer else "does not begin like one"))
    body, digest = patch[:-HASH_BYTES], patch[-HASH_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise InputError("a patch must be whole, but this one was cut or changed: fetch it again")
    at = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(body[len(MAGIC):at], "little")
    try:
        header = msgspec.json.decode(_unpacked(body[at:at + length], MOST_BYTES, exact=False), type=_Header)
        _check(header)
        at += length
        streams = {}
        for name, size in zip(STREAMS, header.streams, strict=True):
            streams[name] = body[at:at + size]
            at += size
    except ValueError as error:  # msgspec's are such
        raise InputError(f"a patch must have a header as `autocompress diff` writes it, but: {error}") from None
    return header, streams


def _check(header: _Header) -> None:
    """ValueError for a header that says what cannot be."""
    for file in header.files:
        if file.name not in (MANIFEST, SIGNATURE) and not is_plain(file.name):
            raise ValueError(f"{file.name!r} is no name of a file of an artefact")
        if any(length < 1 or begin < -1 or bits not in (0, *LEGAL_BITS) for length, begin, bits in file.parts):
            raise ValueError(f"{file.name} has parts that cannot be")
        if sum(length for length, _, _ in file.parts) != file.bytes:
            raise ValueError(f"the parts of {file.name} are not as long as the file")
    if MANIFEST not in {file.name for file in header.files}:
        raise ValueError(f"there is no {MANIFEST}")


def _packed(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, filters=FILTERS)


def _unpacked(packed: bytes, size: int, exact: bool = True) -> bytes:
    """A stream of `size` bytes, or at most so many. InputError for another; no more is unpacked to know."""
    decompressor = lzma.LZMADecompressor(memlimit=2**30)
    try:
        data = decompressor.decompress(packed, size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise InputError(f"a patch must hold intact streams, but: {error}") from None
    if len(data) > size or (exact and len(data) != size):
        raise InputError(f"a stream of the patch must unpack to {size:,} bytes, but does not")
    return data
