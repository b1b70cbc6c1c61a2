"""The artifact store on a local folder: what is put is there, whole and durable; no key leaves the folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.artifacts import Artifacts, Corrupt, Missing, checked, staging_key, staging_prefix
from anime_common.messages import uuid7
from anime_common.outcomes import Refused, Unavailable
from tests.waiting import eventually

PICTURE = b"\x89PNG" + bytes(range(256)) * 20_000
SHA = hashlib.sha256(PICTURE).hexdigest()
COPY_LARGE = """
import asyncio, hashlib, resource, sys
from anime_common.artifacts import Artifacts

async def main(url: str, size: int) -> None:
    store, digest = Artifacts(url), hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(bytes(1 << 20))
    await store.put("small", b"x")
    await store.copy("small", "warm", hashlib.sha256(b"x").hexdigest())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    copied = await store.copy("clip.mp4", "library/clip.mp4", digest.hexdigest())
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, copied)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

COPY_FOR_EVER = """
import asyncio, sys
from anime_common.artifacts import Artifacts

async def main(url: str, sha: str) -> None:
    store = Artifacts(url)
    while True:
        await store.copy("staging/0.mp4", "project/0.mp4", sha)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts((tmp_path / "with space").as_uri())


@pytest.fixture
def flushed(store: Artifacts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files and folders of the store that were flushed to the disk, in order."""
    found: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        assert store.root is not None
        found.append(str(Path(f"/proc/self/fd/{handle}").readlink().relative_to(store.root)))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


class TestBytes:
    async def test_what_is_put_is_there(self, store: Artifacts) -> None:
        await store.put("staging/a/0.png", PICTURE)
        assert await store.get("staging/a/0.png") == PICTURE
        stat = await store.stat("staging/a/0.png")
        assert stat.size == len(PICTURE)
        assert stat.etag
        path = store.path("staging/a/0.png")
        assert path is not None
        assert path.read_bytes() == PICTURE

    async def test_put_again_replaces(self, store: Artifacts) -> None:
        await store.put("a/0.png", b"old")
        await store.put("a/0.png", b"new")
        assert await store.get("a/0.png") == b"new"
        assert await store.list("a") == ["a/0.png"]

    async def test_a_range_comes_in_chunks(self, store: Artifacts) -> None:
        await store.put("a/0.png", PICTURE)
        chunks = [chunk async for chunk in store.stream("a/0.png", 5, len(PICTURE) - 5)]
        assert len(chunks) == 5
        assert b"".join(chunks) == PICTURE[5:-5]
        assert [chunk async for chunk in store.stream("a/0.png", 7, 7)] == []

    async def test_what_is_missing_says_so(self, store: Artifacts) -> None:
        assert not await store.exists("a/0.png")
        for asking in (store.get("a/0.png"), store.stat("a/0.png"), store.copy("a/0.png", "b/0.png", SHA)):
            with pytest.raises(Missing, match=r"a/0\.png"):
                await asking
        with pytest.raises(Missing):
            [chunk async for chunk in store.stream("a/0.png", 0, 1)]

    async def test_everything_up_to_the_root_is_flushed_to_the_disk(self, store: Artifacts, flushed: list[str]) -> None:
        await store.put("project/2026-03-01/0.png", PICTURE)
        assert flushed == ["project/2026-03-01/0.png", "project/2026-03-01", "project", "."]

    async def test_a_store_that_cannot_be_written_is_unavailable(self, store: Artifacts) -> None:
        await store.put("a", b"a file where a folder is wanted")
        with pytest.raises(Unavailable, match=r"cannot write a/0\.png"):
            await store.put("a/0.png", PICTURE)


class TestWrite:
    async def test_what_comes_is_stored_counted_and_hashed(self, store: Artifacts, flushed: list[str]) -> None:
        written = await store.write("uploads/a", parts(PICTURE, 100_000))
        assert (written.size, written.sha256) == (len(PICTURE), SHA)
        assert await store.get("uploads/a") == PICTURE
        assert flushed == ["uploads/a", "uploads", "."]
        nothing = await store.write("uploads/b", parts(b"", 1))
        assert (nothing.size, await store.get("uploads/b")) == (0, b"")

    @pytest.mark.parametrize("size", [0, 10, 12 << 20])
    async def test_what_breaks_off_leaves_nothing(self, store: Artifacts, size: int) -> None:
        async def broken() -> AsyncIterator[bytes]:
            async for part in parts(bytes(size), 1 << 20):
                yield part
            raise Refused(413, "too_large", "too large")

        await store.put("uploads/a", b"before")
        for key in ("uploads/a", "uploads/b"):
            with pytest.raises(Refused):
                await store.write(key, broken())
        assert await store.get("uploads/a") == b"before"
        assert store.root is not None
        await eventually(lambda: [path.name for path in (store.root or Path()).glob("uploads/*")] == ["a"])

    async def test_what_was_killed_half_way_goes(self, store: Artifacts) -> None:
        await store.put("uploads/a", b"whole")
        path = store.path("uploads/a")
        assert path is not None
        for number in (1, 2):
            path.with_name(f"a#{number}").touch()
        os.utime(path, (0, 0))
        os.utime(path.with_name("a#1"), (0, 0))
        assert await store.remove_unfinished("uploads", datetime.now(UTC) - timedelta(minutes=1)) == 1
        assert sorted(each.name for each in path.parent.iterdir()) == ["a", "a#2"]
        assert await store.remove_unfinished("nowhere", datetime.now(UTC)) == 0


async def parts(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class TestCopy:
    async def test_verifies_and_copies(self, store: Artifacts) -> None:
        await store.put("staging/j/a/0.png", PICTURE)
        assert await store.copy("staging/j/a/0.png", "project/0.png", SHA) == len(PICTURE)
        assert await store.get("project/0.png") == PICTURE

    async def test_the_copy_is_a_file_of_its_own(self, store: Artifacts) -> None:
        await store.put("staging/0.png", PICTURE)
        await store.copy("staging/0.png", "project/0.png", SHA)
        source, target = store.path("staging/0.png"), store.path("project/0.png")
        assert source is not None
        assert target is not None
        source.write_bytes(b"scribbled over")
        assert target.read_bytes() == PICTURE

    @pytest.mark.parametrize("size", [1000, 12 << 20], ids=["small", "several parts"])
    async def test_wrong_bytes_leave_no_target(self, store: Artifacts, size: int) -> None:
        await store.put("staging/0.png", bytes(size))
        await store.put("project/1.png", b"another")
        with pytest.raises(Corrupt, match=SHA):
            await store.copy("staging/0.png", "project/0.png", SHA)
        assert not await store.exists("project/0.png")
        folder = store.path("project/1.png")
        assert folder is not None
        await eventually(lambda: [each.name for each in folder.parent.iterdir()] == ["1.png"])

    async def test_wrong_bytes_leave_what_was_there(self, store: Artifacts) -> None:
        await store.put("staging/0.png", PICTURE[:-1])
        await store.put("project/0.png", PICTURE)
        with pytest.raises(Corrupt, match=SHA):
            await store.copy("staging/0.png", "project/0.png", SHA)
        assert await store.get("project/0.png") == PICTURE

    async def test_what_a_killed_copy_left_is_removed_by_the_next(self, store: Artifacts) -> None:
        data = bytes(48 << 20)
        sha = hashlib.sha256(data).hexdigest()
        await store.put("staging/0.mp4", data)
        path = store.path("project/0.mp4")
        assert path is not None
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", COPY_FOR_EVER, store.url, sha)
        try:
            await eventually(lambda: path.with_name("0.mp4#1").exists(), every=0)
        finally:
            process.kill()
            await process.wait()
        path.with_name("0.mp4#2").write_bytes(b"of another one")
        await store.copy("staging/0.mp4", "project/0.mp4", sha)
        assert [each.name for each in path.parent.iterdir()] == ["0.mp4"]
        assert path.stat().st_size == len(data)

    async def test_an_empty_file(self, store: Artifacts) -> None:
        await store.put("staging/0.png", b"")
        assert await store.copy("staging/0.png", "project/0.png", hashlib.sha256().hexdigest()) == 0
        assert await store.get("project/0.png") == b""

    async def test_a_copy_is_flushed_like_everything_else(self, store: Artifacts, flushed: list[str]) -> None:
        await store.put("staging/0.png", PICTURE)
        flushed.clear()
        await store.copy("staging/0.png", "project/day/0.png", SHA)
        assert flushed == ["project/day/0.png", "project/day", "project", "."]

    def test_a_large_file_is_never_in_memory_as_a_whole(self, tmp_path: Path) -> None:
        """In a process of its own, whose peak of memory is that of the copy."""
        size = 96 << 20
        with (tmp_path / "clip.mp4").open("wb") as file:
            file.truncate(size)
        ran = subprocess.run(
            [sys.executable, "-c", COPY_LARGE, tmp_path.as_uri(), str(size)],
            capture_output=True,
            text=True,
            check=True,
        )
        grown, copied = map(int, ran.stdout.split())
        assert copied == size
        assert grown < size // 2, f"{grown} bytes of memory for a file of {size}"


class TestFolders:
    async def test_list_and_delete_all(self, store: Artifacts) -> None:
        job, attempt, other = uuid7(), uuid7(), uuid7()
        for index in range(3):
            await store.put(staging_key(job, attempt, index, "image/png"), b"x")
        await store.put(staging_key(job, other, 0, "image/webp"), b"x")
        await store.put(f"staging/{job}0/kept.png", b"x")
        assert sorted(await store.list(staging_prefix(job, attempt))) == [
            f"staging/{job}/{attempt}/{index}.png" for index in range(3)
        ]
        assert len(await store.list(staging_prefix(job))) == 4
        assert await store.delete_all(staging_prefix(job)) == 4
        assert store.root is not None
        assert not (store.root / staging_prefix(job)).exists()
        assert await store.exists(f"staging/{job}0/kept.png")
        assert await store.delete_all(staging_prefix(job)) == 0

    async def test_delete_twice(self, store: Artifacts) -> None:
        await store.put("a/0.png", b"x")
        await store.delete("a/0.png")
        await store.delete("a/0.png")
        assert not await store.exists("a/0.png")


class TestKeys:
    def test_staging(self) -> None:
        job, attempt = uuid7(), uuid7()
        assert staging_key(job, attempt, 12, "image/jpeg") == f"staging/{job}/{attempt}/12.jpg"
        with pytest.raises(KeyError):
            staging_key(job, attempt, 0, "text/html")

    @pytest.mark.parametrize("key", ["a", "project/2026-03-01/image/ab12cd34_0.png", "uploads/0198-x", "a/B_c.d-e"])
    def test_ours(self, key: str) -> None:
        assert checked(key) == key

    @pytest.mark.parametrize(
        "key",
        [
            "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "a//b", "a/", "./a", "a/./b", ".hidden", "a/.git",
            "~", "~root/x", "a\\b", "a\0b", "a\n", "a b", "ü", "%2e%2e/x", "a%2fb", "C:x", "a:b", "a*", "-rf", "a/-rf",
            "file:///etc/passwd", "a..b", "A", "x" * 201, "/".join(["x" * 200] * 6),
        ],
    )  # fmt: skip
    async def test_tricks_are_refused_everywhere(self, store: Artifacts, key: str) -> None:
        for asking in (
            store.put(key, b""),
            store.get(key),
            store.stat(key),
            store.delete(key),
            store.list(key),
            store.delete_all(key),
            store.copy(key, "a/0.png", SHA),
        ):
            with pytest.raises(ValueError, match="not an artifact key"):
                await asking
        with pytest.raises(ValueError, match="not an artifact key"):
            store.path(key)

    @given(st.text(alphabet="aA0._-/\\%:~ \0\n", max_size=12))
    def test_what_passes_stays_inside_the_root(self, key: str) -> None:
        root = Path("/srv/artifacts")
        try:
            path = root / checked(key)
        except ValueError:
            return
        inside = Path(os.path.normpath(path))
        assert inside == path
        assert inside.is_relative_to(root)
        assert inside != root
        assert not any(part.startswith(".") for part in path.relative_to(root).parts)
