"""The artifact store on a local folder: what is put is there, whole and durable; no key leaves the folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.artifacts import Artifacts, Corrupt, Missing, checked, staging_key, staging_prefix
from anime_common.messages import uuid7
from anime_common.outcomes import Unavailable

PICTURE = b"\x89PNG" + bytes(range(256)) * 20_000
SHA = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts((tmp_path / "with space").as_uri())


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

    async def test_everything_up_to_the_root_is_flushed_to_the_disk(
        self, store: Artifacts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: list[str] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        await store.put("project/2026-03-01/0.png", PICTURE)
        assert store.root is not None
        relative = [str(Path(path).relative_to(store.root)) for path in flushed]
        assert relative == ["project/2026-03-01/0.png", "project/2026-03-01", "project", "."]

    async def test_a_store_that_cannot_be_written_is_unavailable(self, store: Artifacts) -> None:
        await store.put("a", b"a file where a folder is wanted")
        with pytest.raises(Unavailable, match=r"cannot write a/0\.png"):
            await store.put("a/0.png", PICTURE)


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

    async def test_wrong_bytes_leave_no_target(self, store: Artifacts) -> None:
        await store.put("staging/0.png", PICTURE[:-1])
        with pytest.raises(Corrupt, match=SHA):
            await store.copy("staging/0.png", "project/0.png", SHA)
        assert not await store.exists("project/0.png")


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
