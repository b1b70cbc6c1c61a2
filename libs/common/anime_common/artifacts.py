"""The artifact store: a local folder by default, S3-compatible for a cluster, through obstore.

Keys are made by rule from ids, slugs and extensions, never taken from a message. obstore's local store writes to a
temporary file and renames it but never fsyncs; so a put here fsyncs the file and its folders before it returns.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from anime_common.artifact_keys import UPLOADS, checked, staging_key, staging_prefix, upload_key
from anime_common.outcomes import Unavailable

if TYPE_CHECKING:
    from datetime import datetime

    from obstore.store import ObjectStore

__all__ = [
    "UPLOADS",
    "Artifacts",
    "Corrupt",
    "Missing",
    "Stat",
    "Written",
    "checked",
    "staging_key",
    "staging_prefix",
    "upload_key",
]

CHUNK = 1 << 20
PART = 5 << 20
"""Bytes that are written at a time while copying: the least that S3 takes as a part of an upload."""


class Corrupt(Exception):
    """The bytes are not those that were promised."""


class Missing(Exception):
    """There is nothing under this key."""


@dataclass(frozen=True, slots=True)
class Stat:
    """Size in bytes, entity tag and time of the last change of an object."""

    size: int
    etag: str | None
    modified: datetime


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: how many bytes, and their SHA-256."""

    size: int
    sha256: str


class Artifacts:
    """The store behind a URL: `file:///folder` or `s3://bucket/prefix` (credentials by the usual AWS_* variables)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root: Path | None = None
        self._store: ObjectStore
        parts = urlsplit(url)
        if parts.scheme == "file":
            self.root = Path(unquote(parts.path))
            self.root.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(self.root)
        else:
            self._store = from_url(url)

    def path(self, key: str) -> Path | None:
        """The file behind a key, when the store is a local folder."""
        return self.root / checked(key) if self.root else None

    async def put(self, key: str, data: bytes) -> None:
        """Store bytes; on return they survive a power cut (as far as the disk keeps its word)."""
        try:
            await obstore.put_async(self._store, checked(key), data)
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot write {key}: {error}") from error
        await self._flush(key)

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> Written:
        """Store bytes as they come; on return they survive a power cut. What `chunks` raises leaves nothing."""
        digest, size = hashlib.sha256(), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        try:
            await obstore.put_async(self._store, checked(key), counted(), chunk_size=PART, max_concurrency=2)
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot write {key}: {error}") from error
        await self._flush(key)
        return Written(size, digest.hexdigest())

    async def _flush(self, key: str, *, tidy: bool = False) -> None:
        """Have a written object outlive a power cut; `tidy` removes first what lies half written beside it."""
        if self.root is None:
            return
        try:
            await asyncio.to_thread(_fsync, self.root / key, self.root, tidy=tidy)
        except OSError as error:
            raise Unavailable(f"the artifact store cannot flush {key}: {error}") from error

    async def copy(self, source: str, target: str, sha256: str) -> int:
        """Copy an object piece by piece, verifying its hash before it becomes visible; returns its size in bytes.

        Raises Missing when there is no source, Corrupt when its bytes differ from `sha256`; the target stays as it was.
        """
        digest, size = hashlib.sha256(), 0

        async def verified(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk
            # Raised before the store is told that this was all, so it throws away what it has.
            if digest.hexdigest() != sha256:
                raise Corrupt(f"{source} has sha256 {digest.hexdigest()}, not {sha256}")

        try:
            found = await obstore.get_async(self._store, checked(source))
        except FileNotFoundError as error:
            raise Missing(source) from error
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {source}: {error}") from error
        chunks = verified(found.stream(min_chunk_size=CHUNK))
        try:
            await obstore.put_async(self._store, checked(target), chunks, chunk_size=PART, max_concurrency=2)
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot copy {source} to {target}: {error}") from error
        await self._flush(target, tidy=True)
        return size

    async def get(self, key: str) -> bytes:
        """The bytes under a key; raises Missing."""
        try:
            found = await obstore.get_async(self._store, checked(key))
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise Missing(key) from error
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {key}: {error}") from error

    async def stream(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes [start, end) under a key, in chunks; raises Missing."""
        position = start
        while position < end:
            stop = min(position + CHUNK, end)
            try:
                chunk = await obstore.get_range_async(self._store, checked(key), start=position, end=stop)
            except FileNotFoundError as error:
                raise Missing(key) from error
            except BaseError as error:
                raise Unavailable(f"the artifact store cannot read {key}: {error}") from error
            yield bytes(chunk)
            position = stop

    async def stat(self, key: str) -> Stat:
        """Size, tag and time of an object; raises Missing."""
        try:
            meta = await obstore.head_async(self._store, checked(key))
        except FileNotFoundError as error:
            raise Missing(key) from error
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {key}: {error}") from error
        return Stat(meta["size"], meta["e_tag"], meta["last_modified"])

    async def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        try:
            await self.stat(key)
        except Missing:
            return False
        return True

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        try:
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._store, checked(key))
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot delete {key}: {error}") from error

    async def objects(self, prefix: str) -> dict[str, datetime]:
        """All keys under a folder, with the time of the last change of each."""
        found: dict[str, datetime] = {}
        try:
            async for page in obstore.list(self._store, prefix=checked(prefix)):
                found |= {meta["path"]: meta["last_modified"] for meta in page}
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot list {prefix}: {error}") from error
        return found

    async def list(self, prefix: str) -> list[str]:
        """All keys under a folder."""
        return list(await self.objects(prefix))

    async def remove_empty(self, prefix: str) -> None:
        """Remove a folder in which nothing is left, when local; one that holds something stays."""
        if self.root is not None:
            await asyncio.to_thread(_remove_folders, self.root / checked(prefix))

    async def remove_unfinished(self, prefix: str, before: datetime) -> int:
        """Remove what writers that were killed have left in a local folder, if it was last written before a time.

        Returns how many files. (S3 has no such files: its unfinished uploads expire by a rule of the bucket.)
        """
        if self.root is None:
            return 0
        try:
            return await asyncio.to_thread(_remove_unfinished, self.root / checked(prefix), before.timestamp())
        except OSError as error:
            raise Unavailable(f"the artifact store cannot tidy {prefix}: {error}") from error

    async def delete_all(self, prefix: str) -> int:
        """Remove all objects under a folder, and the folder itself when local; returns how many."""
        if self.root is not None:
            try:
                return await asyncio.to_thread(_remove_all, self.root / checked(prefix))
            except OSError as error:
                raise Unavailable(f"the artifact store cannot delete {prefix}: {error}") from error
        keys = await self.list(prefix)
        for key in keys:
            await self.delete(key)
        return len(keys)


def _fsync(path: Path, root: Path, *, tidy: bool) -> None:
    """Flush a file and the folders up to the root to the disk."""
    if tidy:
        _remove_partial(path)
    for each in (path, *path.parents):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if each == root:
            return


def _remove_partial(path: Path) -> None:
    """Remove what copies that were killed have left beside a file: obstore writes to `<name>#1`, `#2`, ….

    One that is still written by a process that was frozen meanwhile fails, and finds the file there when tried again.
    """
    for number in itertools.count(1):
        try:
            path.with_name(f"{path.name}#{number}").unlink()
        except FileNotFoundError:
            return


def _remove_unfinished(folder: Path, before: float) -> int:
    """Remove the `<name>#<number>` files of a folder, written before a POSIX time; returns how many."""
    removed = 0
    for path in folder.glob("*#*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
    return removed


def _remove_all(folder: Path) -> int:
    """Remove the files of a folder, then the folders that are empty now; returns how many files."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    removed = 0
    for path, _, names in os.walk(folder, topdown=False, onerror=failed):
        for name in names:
            with suppress(FileNotFoundError):
                Path(path, name).unlink()
                removed += 1
        with suppress(OSError):
            Path(path).rmdir()
    return removed


def _remove_folders(folder: Path) -> None:
    """Remove a folder whose files are gone, with its empty sub-folders; one that got a new file stays."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(path).rmdir()
