"""Characters and their versions: found, made, changed and deleted inside one transaction each."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from anime_common.contracts.casting import CharacterUse
from anime_common.contracts.characters import (
    CONTENT,
    Canon,
    Character,
    CharacterChanged,
    CharacterChanges,
    CharacterPage,
    CharacterQuery,
    CharacterRef,
    CharacterState,
    CharacterVersion,
    CompareVersions,
    Comparison,
    Content,
    CreateCharacter,
    DeleteCharacter,
    DeletedCharacter,
    Difference,
    UpdateCharacter,
    UseVersion,
    VersionPage,
    VersionQuery,
    VersionRef,
)
from anime_common.messages import Outgoing, first_error
from anime_common.outcomes import Refused, not_found
from anime_jobs import projects
from anime_jobs.composition import Member
from anime_jobs.projects import check_version, slug_of
from anime_jobs.store import Connection

_SELECT = (
    "SELECT c.*, p.slug AS project, v.content FROM characters c LEFT JOIN projects p ON p.id = c.project_id"
    " JOIN character_versions v ON v.character_id = c.id AND v.version = c.current"
)
CANON = tuple(Canon.model_fields)


def _character(row: Mapping[str, Any]) -> Character:
    # What a later version of us has stored in a content is not ours to refuse.
    known = dict(row)
    found = {**known.pop("content"), **known, "version": row["current"], "versions": row["latest"]}
    return Character.model_validate(found, extra="ignore")


def _stored(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of the content of a version: what is not as by default."""
    return Content.model_validate({name: content[name] for name in CONTENT}).model_dump(
        mode="json", exclude_defaults=True
    ) | {"name": content["name"]}


async def _scope(connection: Connection, project: str | None, field: str = "project") -> UUID | None:
    if project is None:
        return None
    found = await projects.find(connection, project, count=False)
    if found is None:
        raise Refused(422, "unknown_project", f"there is no project {project!r}", field)
    return found.id


async def find(connection: Connection, ref: CharacterRef, *, update: bool = False) -> Character:
    """A character by id or slug; raises Refused (404; 409 when several projects have one of that slug)."""
    suffix = " FOR UPDATE OF c" if update else ""
    scope = await _scope(connection, ref.project)
    try:
        rows = await connection.fetch(f"{_SELECT} WHERE c.id = $1{suffix}", UUID(ref.character))
    except ValueError:
        rows = await connection.fetch(
            f"{_SELECT} WHERE c.slug = $1 AND ($2::uuid IS NULL OR c.project_id = $2 OR c.project_id IS NULL)"
            f" ORDER BY c.project_id NULLS LAST{suffix}",
            ref.character,
            scope,
        )
    if not rows:
        raise not_found("character", ref.character, "character")
    if len(rows) > 1 and scope is None:
        where = ", ".join(row["project"] or "shared by all" for row in rows)
        text = f"several characters are called {ref.character!r} ({where}): say the project, or the id"
        raise Refused(409, "ambiguous", text, "project")
    return _character(rows[0])


async def create(connection: Connection, question: CreateCharacter, epoch: int) -> tuple[Character, list[Outgoing]]:
    """Make a character; a repeat of the same call answers with the one that is there. Raises Refused (409, 422)."""
    new = question.character
    content = _stored(dict(new))
    existing = await connection.fetchrow(f"{_SELECT} WHERE c.id = $1", question.id)
    if existing is not None:
        first = await _content(connection, question.id, 1)
        if first == content:
            return _character(existing), []
        raise Refused(409, "conflict", f"the character id {question.id} is taken", "id")
    slug = new.slug or slug_of(new.name)
    if not slug:
        text = "the name has no Latin letter or digit to make a slug from: give a slug"
        raise Refused(422, "invalid", text, "slug")
    made = await connection.fetchval(
        "INSERT INTO characters (id, slug, project_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id",
        question.id,
        slug,
        await _scope(connection, new.project),
    )
    if made is None:
        where = f"in the project {new.project!r}" if new.project else "among those that all share"
        text = f"there is already a character {slug!r} {where}"
        raise Refused(409, "slug_taken", text, "slug" if new.slug else "name")
    await _add_version(connection, question.id, 1, content, new.note)
    character = await find(connection, CharacterRef(character=str(question.id)))
    return character, [_told(character, epoch)]


async def _add_version(
    connection: Connection, character_id: UUID, version: int, content: Mapping[str, Any], note: str
) -> None:
    await connection.execute(
        "INSERT INTO character_versions (character_id, version, content, note) VALUES ($1, $2, $3, $4)",
        character_id,
        version,
        dict(content),
        note,
    )


async def _content(connection: Connection, character_id: UUID, version: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = await connection.fetchval(
        "SELECT content FROM character_versions WHERE character_id = $1 AND version = $2", character_id, version
    )
    return found


async def listing(connection: Connection, query: CharacterQuery) -> CharacterPage:
    """Characters by slug, those of a project before the shared ones of the same slug."""
    after = _position(query.cursor)
    rows = await connection.fetch(
        f"{_SELECT} WHERE ($1::uuid IS NULL OR c.project_id = $1 OR c.project_id IS NULL)"
        " AND ($2::bool IS NULL OR (c.project_id IS NULL) = $2) AND ($3::text IS NULL OR c.state = $3)"
        " AND ($4::text IS NULL OR (c.slug, c.id) > ($4, $5::uuid)) ORDER BY c.slug, c.id LIMIT $6",
        await _scope(connection, query.project),
        query.shared,
        query.state,
        *(after or (None, None)),
        query.limit + 1,
    )
    items = tuple(_character(row) for row in rows[: query.limit])
    more = len(rows) > query.limit
    return CharacterPage(items=items, next=_cursor(items[-1]) if more else None)


def _cursor(last: Character) -> str:
    return base64.urlsafe_b64encode(f"{last.slug} {last.id.hex}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[str, UUID] | None:
    if cursor is None:
        return None
    try:
        slug, _, ident = (
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode().partition(" ")
        )
        return slug, UUID(hex=ident)
    except (ValueError, binascii.Error) as error:
        raise Refused(422, "invalid", "not a cursor of this list: use the `next` of its last page", "cursor") from error


async def update(connection: Connection, question: UpdateCharacter, epoch: int) -> tuple[Character, list[Outgoing]]:
    """Change a character; a change of its content makes a version. Raises Refused (404, 409, 412, 422)."""
    character = await find(connection, question, update=True)
    check_version(question.expected_version, character.revision, "character")
    changes = question.changes
    content = _stored(applied(character, changes))
    state = changes.state or character.state
    scope = character.project_id
    if "project" in changes.model_fields_set:
        scope = await _scope(connection, changes.project, "changes.project")
    same = content == _stored(dict(character))
    if same and (state, scope) == (character.state, character.project_id):
        return character, []
    await _check_free(connection, character, scope)
    if not same:
        await _add_version(connection, character.id, character.versions + 1, content, changes.note or "")
    await connection.execute(
        "UPDATE characters SET state = $2, project_id = $3, current = CASE WHEN $4 THEN current ELSE latest + 1 END,"
        " latest = CASE WHEN $4 THEN latest ELSE latest + 1 END, revision = revision + 1, updated_at = now()"
        " WHERE id = $1",
        character.id,
        state,
        scope,
        same,
    )
    changed = await find(connection, CharacterRef(character=str(character.id)))
    return changed, [_told(changed, epoch)]


def applied(character: Character, changes: CharacterChanges) -> dict[str, Any]:
    """The content of a character with changes; raises Refused (422)."""
    given = {name: getattr(changes, name) for name in CONTENT if name in changes.model_fields_set}
    if changes.canon is not None:
        wanted = {name: getattr(changes.canon, name) for name in changes.canon.model_fields_set}
        try:
            given["canon"] = Canon.model_validate(dict(character.canon) | wanted)
        except ValidationError as error:
            field, text = first_error(error)
            raise Refused(422, "invalid", text, f"changes.canon.{field}") from error
    return dict(character) | given


async def _check_free(connection: Connection, character: Character, scope: UUID | None) -> None:
    if scope == character.project_id:
        return
    taken = await connection.fetchval(
        "SELECT 1 FROM characters WHERE slug = $1 AND project_id IS NOT DISTINCT FROM $2 AND id <> $3",
        character.slug,
        scope,
        character.id,
    )
    if taken:
        raise Refused(409, "slug_taken", f"there is already a character {character.slug!r} there", "changes.project")


async def delete(
    connection: Connection, question: DeleteCharacter, epoch: int
) -> tuple[DeletedCharacter, list[Outgoing]]:
    """Delete a character; one that jobs were drawn with is archived unless forced. Raises Refused (404, 412)."""
    character = await find(connection, question, update=True)
    check_version(question.expected_version, character.revision, "character")
    jobs = await connection.fetchval("SELECT count(*) FROM job_characters WHERE character_id = $1", character.id)
    if jobs and not question.force:
        archive = CharacterChanges(state=CharacterState.ARCHIVED)
        archived, told = await update(connection, UpdateCharacter(character=str(character.id), changes=archive), epoch)
        return DeletedCharacter(deleted=False, jobs=jobs, character=archived), told
    await connection.execute("DELETE FROM characters WHERE id = $1", character.id)
    gone = CharacterChanged(character_id=character.id, character=character, deleted=True)
    ident = gone.ident(epoch=epoch, version=character.revision + 1)
    return DeletedCharacter(deleted=True, jobs=jobs, character=character), [Outgoing(gone, ident)]


async def versions(connection: Connection, query: VersionQuery) -> VersionPage:
    """The versions of a character, newest first; raises Refused (404, 422)."""
    character = await find(connection, query)
    if query.cursor is not None and not (
        query.cursor.isascii() and query.cursor.isdecimal() and len(query.cursor) < 10
    ):
        raise Refused(422, "invalid", "not a cursor of this list: use the `next` of its last page", "cursor")
    rows = await connection.fetch(
        "SELECT * FROM character_versions WHERE character_id = $1 AND ($2::int IS NULL OR version < $2)"
        " ORDER BY version DESC LIMIT $3",
        character.id,
        int(query.cursor) if query.cursor else None,
        query.limit + 1,
    )
    items = tuple(_version(row, character) for row in rows[: query.limit])
    return VersionPage(items=items, next=str(items[-1].version) if len(rows) > query.limit else None)


def _version(row: Mapping[str, Any], character: Character) -> CharacterVersion:
    known = {name: row[name] for name in ("character_id", "version", "note", "created_at")}
    found = {**row["content"], **known, "current": row["version"] == character.version}
    return CharacterVersion.model_validate(found, extra="ignore")


async def version(connection: Connection, ref: VersionRef) -> CharacterVersion:
    """One version; raises Refused (404)."""
    return await _numbered(connection, await find(connection, ref), ref.version, "version")


async def _numbered(connection: Connection, character: Character, number: int, field: str) -> CharacterVersion:
    row = await connection.fetchrow(
        "SELECT * FROM character_versions WHERE character_id = $1 AND version = $2", character.id, number
    )
    if row is None:
        text = f"{character.slug} has no version {number}; it has 1 to {character.versions}"
        raise Refused(404, "not_found", text, field)
    return _version(row, character)


async def use(connection: Connection, question: UseVersion, epoch: int) -> tuple[Character, list[Outgoing]]:
    """Make a version the current one. Raises Refused (404, 412)."""
    character = await find(connection, question, update=True)
    check_version(question.expected_version, character.revision, "character")
    await _numbered(connection, character, question.version, "version")
    if question.version == character.version:
        return character, []
    await connection.execute(
        "UPDATE characters SET current = $2, revision = revision + 1, updated_at = now() WHERE id = $1",
        character.id,
        question.version,
    )
    changed = await find(connection, CharacterRef(character=str(character.id)))
    return changed, [_told(changed, epoch)]


async def compare(connection: Connection, question: CompareVersions) -> Comparison:
    """In what two versions differ; raises Refused (404)."""
    character = await find(connection, question)
    before = await _numbered(connection, character, question.before, "before")
    after = await _numbered(connection, character, question.after, "after")
    return Comparison(before=before.version, after=after.version, differences=tuple(differences(before, after)))


def differences(before: Content, after: Content) -> Sequence[Difference]:
    """The fields of two contents that differ, those of the canon each by itself."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in CONTENT if name != "canon"]
    pairs += [(f"canon.{name}", getattr(before.canon, name), getattr(after.canon, name)) for name in CANON]
    return [_difference(name, one, other) for name, one, other in pairs if one != other]


def _difference(name: str, one: Any, other: Any) -> Difference:
    if not isinstance(one, tuple):
        return Difference(field=name, before=_shown(one), after=_shown(other))
    left, right = [_shown(each) for each in one], [_shown(each) for each in other]
    return Difference(
        field=name,
        before=", ".join(left),
        after=", ".join(right),
        added=tuple(each for each in right if each not in left),
        removed=tuple(each for each in left if each not in right),
    )


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    return " ".join(str(each) for each in value.model_dump(mode="json", exclude_defaults=True).values())


async def cast(connection: Connection, project_id: UUID, uses: Sequence[CharacterUse]) -> tuple[Member, ...]:
    """The characters that a request names, as they are now, or as of the versions it names. Raises Refused (422)."""
    found: list[Member] = []
    for index, wanted in enumerate(uses):
        field = f"characters.{index}"
        try:
            character = await find(connection, CharacterRef(character=wanted.character, project=str(project_id)))
            content = await _numbered(connection, character, wanted.version or character.version, f"{field}.version")
        except Refused as refusal:
            code = "unknown_character" if refusal.field == "character" else "unknown_version"
            text = f"{refusal.message}: neither in the project nor among the shared ones"
            about = refusal.message if code == "unknown_version" else text
            raise Refused(422, code, about, field) from refusal
        if character.project_id not in {None, project_id}:
            text = f"{character.slug} belongs to the project {character.project}, not to that of the job"
            raise Refused(422, "other_project", text, field)
        if character.state is CharacterState.ARCHIVED:
            raise Refused(422, "character_archived", f"the character {character.slug} is archived", field)
        if any(member.id == character.id for member in found):
            raise Refused(422, "invalid", f"the character {character.slug} is named twice", field)
        member = {name: getattr(content, name) for name in Member.model_fields if name in CONTENT}
        known = {"id": character.id, "slug": character.slug, "version": content.version}
        found.append(Member.model_validate({**member, **known, "words": wanted.words, "outfit": wanted.outfit}))
    return tuple(found)


def _told(character: Character, epoch: int) -> Outgoing:
    event = CharacterChanged(character_id=character.id, character=character)
    return Outgoing(event, event.ident(epoch=epoch, version=character.revision))
