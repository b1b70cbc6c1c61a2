"""Characters in the ledger's own database: versions that never change, and who takes which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from pydantic import ValidationError

from anime_common.contracts.casting import CharacterUse
from anime_common.contracts.characters import (
    CONTENT,
    Canon,
    Character,
    CharacterChanged,
    CharacterChanges,
    CharacterQuery,
    CharacterRef,
    CharacterState,
    CompareVersions,
    CreateCharacter,
    DeleteCharacter,
    NewCharacter,
    SeedPolicy,
    UpdateCharacter,
    UseVersion,
    VersionQuery,
    VersionRef,
)
from anime_common.contracts.projects import CreateProject, NewProject
from anime_common.messages import uuid7
from anime_common.outbox import transaction
from anime_common.outcomes import Refused
from anime_jobs import characters, projects, store
from tests.conftest import Database

EPOCH = 3
CANON = {"figure": "girl", "hair": "long hair, silver hair", "eyes": ["red eyes"]}


@pytest_asyncio.fixture
async def connection(database: Database) -> AsyncIterator[store.Connection]:
    """A transaction on the ledger's schema that nothing else sees."""
    pool = await database.pool("jobs")
    async with transaction(pool) as found:
        yield found
    await pool.close()


@pytest_asyncio.fixture
async def academy(connection: store.Connection) -> UUID:
    question = CreateProject(id=uuid7(), project=NewProject(name="Academy"))
    return (await projects.create(connection, question, EPOCH))[0].id


async def make(connection: store.Connection, name: str = "Yuki", **fields: Any) -> Character:
    new = NewCharacter.model_validate({"name": name, "canon": CANON, **fields})
    return (await characters.create(connection, CreateCharacter(id=uuid7(), character=new), EPOCH))[0]


async def change(connection: store.Connection, ref: str, revision: int | None = None, **changes: Any) -> Character:
    wanted = CharacterChanges.model_validate(changes)
    question = UpdateCharacter(character=ref, changes=wanted, expected_version=revision)
    return (await characters.update(connection, question, EPOCH))[0]


async def refusal(asking: Any) -> tuple[int, str, str | None]:
    with pytest.raises(Refused) as found:
        await asking
    return found.value.status, found.value.code, found.value.field


async def test_everything_that_is_set_is_kept(connection: store.Connection, academy: UUID) -> None:
    fields: dict[str, Any] = {
        "aliases": ["Snow"],
        "description": "The quiet one.",
        "canon": {
            **CANON,
            "species": "elf",
            "key_colours": [{"part": "ribbon", "name": "crimson", "hex": "#c2183c"}],
            "never": "hat",
        },
        "design_prompt": "g, (h:1.2)",
        "negative_prompt": "extra fingers",
        "lora": {"key": "yuki-v2", "weight": 0.8, "trigger": "yuki"},
        "references": [{"file_id": str(uuid7()), "note": "front"}],
        "seed": {"mode": "fixed", "seed": 7},
        "project": "academy",
    }
    made = await make(connection, **fields)
    assert await characters.find(connection, CharacterRef(character="yuki")) == made
    wanted = NewCharacter.model_validate({"name": "Yuki", **fields})
    assert {name: getattr(made, name) for name in CONTENT} == {name: getattr(wanted, name) for name in CONTENT}
    assert (made.project_id, made.project, made.version, made.versions, made.revision) == (academy, "academy", 1, 1, 1)


async def test_the_same_call_again_makes_one(connection: store.Connection) -> None:
    question = CreateCharacter(id=uuid7(), character=NewCharacter(name="Yuki", canon=Canon.model_validate(CANON)))
    first, told = await characters.create(connection, question, EPOCH)
    again, silence = await characters.create(connection, question, EPOCH)
    assert (first, len(told), silence) == (again, 1, [])
    other = question.model_copy(update={"character": NewCharacter(name="Yuki")})
    assert await refusal(characters.create(connection, other, EPOCH)) == (409, "conflict", "id")


async def test_a_slug_is_taken_within_its_project_alone(connection: store.Connection, academy: UUID) -> None:
    shared = await make(connection)
    own = await make(connection, project="academy")
    assert await refusal(make(connection, slug="yuki")) == (409, "slug_taken", "slug")
    assert await refusal(make(connection, project="academy")) == (409, "slug_taken", "name")
    assert await refusal(characters.find(connection, CharacterRef(character="yuki"))) == (409, "ambiguous", "project")
    found = await characters.find(connection, CharacterRef(character="yuki", project="academy"))
    assert found.id == own.id
    await make(connection, "Mio")
    page = await characters.listing(connection, CharacterQuery(project="academy"))
    assert {each.id for each in page.items} >= {shared.id, own.id}
    assert [each.slug for each in page.items] == ["mio", "yuki", "yuki"]
    only = await characters.listing(connection, CharacterQuery(shared=False))
    assert [each.id for each in only.items] == [own.id]
    assert await refusal(change(connection, str(own.id), project=None)) == (409, "slug_taken", "changes.project")


async def test_lists_go_on_where_they_ended(connection: store.Connection) -> None:
    for name in ("A", "B", "C"):
        await make(connection, name)
    first = await characters.listing(connection, CharacterQuery(limit=2))
    rest = await characters.listing(connection, CharacterQuery(limit=2, cursor=first.next))
    assert [each.slug for each in (*first.items, *rest.items)] == ["a", "b", "c"]
    assert rest.next is None
    assert await refusal(characters.listing(connection, CharacterQuery(cursor="x"))) == (422, "invalid", "cursor")


async def test_each_change_of_content_makes_a_version_that_never_changes(connection: store.Connection) -> None:
    await make(connection, note="pilot")
    second = await change(connection, "yuki", canon={"hair": "short hair"}, note="episode two")
    assert (second.version, second.versions, second.revision) == (2, 2, 2)
    assert (second.canon.hair, second.canon.eyes) == (("short hair",), ("red eyes",))
    same = await change(connection, "yuki", canon={"hair": ["short hair"]})
    assert same == second, "what is alike already is no change"
    await change(connection, "yuki", lora={"key": "yuki-v2"})
    third = await change(connection, "yuki", lora=None, description="x")
    assert (third.version, third.lora) == (4, None)
    page = await characters.versions(connection, VersionQuery(character="yuki", limit=3))
    assert [(each.version, each.note, each.current) for each in page.items] == [
        (4, "", True),
        (3, "", False),
        (2, "episode two", False),
    ]
    rest = await characters.versions(connection, VersionQuery(character="yuki", cursor=page.next))
    assert [(each.version, each.note) for each in rest.items] == [(1, "pilot")]
    first = await characters.version(connection, VersionRef(character="yuki", version=1))
    assert first.canon == Canon.model_validate(CANON)


async def test_a_version_is_made_current_again_and_changes_go_on_from_it(connection: store.Connection) -> None:
    await make(connection)
    await change(connection, "yuki", canon={"hair": "short hair"})
    used, told = await characters.use(connection, UseVersion(character="yuki", version=1), EPOCH)
    assert (used.version, used.versions, used.revision) == (1, 2, 3)
    assert used.canon.hair == ("long hair", "silver hair")
    assert [each.message.character.version for each in told if isinstance(each.message, CharacterChanged)] == [1]
    again, silence = await characters.use(connection, UseVersion(character="yuki", version=1), EPOCH)
    assert (again, silence) == (used, [])
    changed = await change(connection, "yuki", canon={"eyes": "blue eyes"})
    assert (changed.version, changed.versions, changed.canon.hair) == (3, 3, ("long hair", "silver hair"))
    absent = characters.use(connection, UseVersion(character="yuki", version=9), EPOCH)
    assert await refusal(absent) == (404, "not_found", "version")
    stale = characters.use(connection, UseVersion(character="yuki", version=1, expected_version=1), EPOCH)
    assert await refusal(stale) == (412, "changed_meanwhile", None)


async def test_versions_are_compared_field_by_field(connection: store.Connection) -> None:
    await make(connection)
    await change(connection, "yuki", canon={"hair": "silver hair, ponytail", "figure": None}, name="Yuki II")
    found = await characters.compare(connection, CompareVersions(character="yuki", before=1, after=2))
    assert [(each.field, each.before, each.after, each.added, each.removed) for each in found.differences] == [
        ("name", "Yuki", "Yuki II", (), ()),
        ("canon.figure", "girl", "", (), ()),
        ("canon.hair", "long hair, silver hair", "silver hair, ponytail", ("ponytail",), ("long hair",)),
    ]
    same = await characters.compare(connection, CompareVersions(character="yuki", before=2, after=2))
    assert same.differences == ()
    wrong = characters.compare(connection, CompareVersions(character="yuki", before=1, after=3))
    assert await refusal(wrong) == (404, "not_found", "after")


async def test_who_read_an_older_revision_is_told(connection: store.Connection) -> None:
    await make(connection)
    await change(connection, "yuki", 1, description="one")
    assert (await refusal(change(connection, "yuki", 1, description="two")))[:2] == (412, "changed_meanwhile")


async def test_state_and_project_change_without_a_version(connection: store.Connection, academy: UUID) -> None:
    await make(connection)
    moved = await change(connection, "yuki", project="academy", state="archived")
    assert (moved.project_id, moved.state, moved.version, moved.revision) == (academy, CharacterState.ARCHIVED, 1, 2)
    assert await refusal(change(connection, "yuki", project="nowhere")) == (422, "unknown_project", "changes.project")


@pytest.mark.parametrize(
    "wrong",
    [
        {"canon": {"hair": [1]}},
        {"canon": {"hats": "one"}},
        {"canon": {"traits": ", ".join(f"t{number}" for number in range(41))}},
        {"canon": {"key_colours": [{"part": "ribbon", "name": "red", "hex": "red"}]}},
        {"canon": {"hair": "a\u0007b"}},
        {"seed": {"mode": "fixed"}},
        {"seed": {"mode": "free", "seed": 1}},
        {"references": [{"file_id": str(UUID(int=1))}, {"file_id": str(UUID(int=1))}]},
        {"name": " "},
    ],
)
def test_what_is_no_character_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NewCharacter.model_validate({"name": "Yuki", **wrong})


def test_traits_are_taken_apart_once() -> None:
    canon = Canon.model_validate({"hair": " long hair ,silver  hair,, long hair", "eyes": ["red eyes, slit pupils"]})
    assert (canon.hair, canon.eyes) == (("long hair", "silver hair"), ("red eyes", "slit pupils"))
    nothings: list[dict[str, Any]] = [{"note": "about nothing"}, {}, {"canon": {}}, {"name": None}]
    for nothing in nothings:
        with pytest.raises(ValidationError):
            CharacterChanges.model_validate(nothing)
    with pytest.raises(ValidationError):
        SeedPolicy.model_validate({"mode": "sometimes"})


class TestCast:
    async def test_each_is_taken_as_it_is_or_as_of_a_version(self, connection: store.Connection, academy: UUID) -> None:
        await make(connection)
        await make(connection, "Mio", project="academy")
        await change(connection, "yuki", canon={"hair": "short hair"})
        uses = [
            CharacterUse(character="yuki", version=1, words="waving"),
            CharacterUse(character="mio", outfit=("dress",)),
        ]
        first, second = await characters.cast(connection, academy, uses)
        assert (first.slug, first.version, first.words, first.canon.hair[0]) == ("yuki", 1, "waving", "long hair")
        assert (second.slug, second.version, second.outfit) == ("mio", 1, ("dress",))

    async def test_that_of_the_project_comes_before_the_shared_one(
        self, connection: store.Connection, academy: UUID
    ) -> None:
        await make(connection)
        own = await make(connection, project="academy")
        (found,) = await characters.cast(connection, academy, [CharacterUse(character="yuki")])
        assert found.id == own.id

    async def test_who_cannot_appear_is_refused_by_place(self, connection: store.Connection, academy: UUID) -> None:
        elsewhere = CreateProject(id=uuid7(), project=NewProject(name="Elsewhere"))
        await projects.create(connection, elsewhere, EPOCH)
        yuki, other = await make(connection), await make(connection, "Ren", project="elsewhere")
        await make(connection, "Old")
        await change(connection, "old", state="archived")

        async def refused(*names: str, version: int | None = None) -> tuple[int, str, str | None]:
            uses = [CharacterUse(character=name, version=version) for name in names]
            return await refusal(characters.cast(connection, academy, uses))

        assert await refused("yuki", "nobody") == (422, "unknown_character", "characters.1")
        assert await refused("ren") == (422, "unknown_character", "characters.0")
        assert await refused(str(other.id)) == (422, "other_project", "characters.0")
        assert await refused("old") == (422, "character_archived", "characters.0")
        assert await refused("yuki", str(yuki.id)) == (422, "invalid", "characters.1")
        assert await refused("yuki", version=3) == (422, "unknown_version", "characters.0")


async def test_one_that_nothing_was_drawn_with_is_deleted(connection: store.Connection) -> None:
    made = await make(connection)
    gone, told = await characters.delete(connection, DeleteCharacter(character="yuki"), EPOCH)
    assert (gone.deleted, gone.jobs) == (True, 0)
    assert [each.message.deleted for each in told if isinstance(each.message, CharacterChanged)] == [True]
    assert (await refusal(characters.find(connection, CharacterRef(character=str(made.id)))))[0] == 404
    assert await connection.fetchval("SELECT count(*) FROM character_versions") == 0


async def test_the_characters_of_a_project_go_with_it(connection: store.Connection, academy: UUID) -> None:
    from anime_common.contracts.projects import DeleteProject

    await make(connection, project="academy")
    shared = await make(connection, "Mio")
    await projects.delete(connection, DeleteProject(project="academy", force=True), EPOCH)
    left = await characters.listing(connection, CharacterQuery())
    assert [each.id for each in left.items] == [shared.id]
