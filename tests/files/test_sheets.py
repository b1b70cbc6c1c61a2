"""Contact sheets: laid out, drawn, filed once, and replaced when their batch ends again."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from anime_common import failpoints
from anime_common.consume import Delivery
from anime_common.contracts.batches import Batch, BatchEnded, SheetCell, SheetPlan
from anime_common.contracts.files import FileDeleted, FileQuery, FileRef, FileView, SheetFailed, SheetMade
from anime_common.failpoints import FailpointError
from anime_common.messages import Envelope, uuid7
from anime_common.pull import Pulled
from anime_files import sheets
from anime_files.model import DEFAULT_TEMPLATE
from anime_files.sheet_maker import SheetMaker
from anime_files.sheets import LONGEST, MOST_PIXELS, Box, Drawing, drawable, fonts, lay_out
from tests.files.conftest import DAY, PROJECT, Desk, delivery, filing_of, job, picture, staged

HAIR = SheetPlan(title="Hair", column_axis="hair", columns=("red", "blue"), row_axis="scene", rows=("a", "b"), date=DAY)


def cell(column: int = 0, row: int = 0, ident: UUID | None = None) -> SheetCell:
    return SheetCell(file_id=ident or uuid7(), row=row, column=column)


def overlap(one: Box, other: Box) -> bool:
    apart = one.left + one.width <= other.left or other.left + other.width <= one.left
    return not (apart or one.top + one.height <= other.top or other.top + other.height <= one.top)


LABELS = st.lists(st.text(min_size=1, max_size=40), max_size=12, unique=True)


class TestLayout:
    @given(
        columns=LABELS,
        rows=LABELS,
        places=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=60),
        shape=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    )
    def test_every_picture_has_a_place_of_its_own_on_the_sheet(
        self, columns: list[str], rows: list[str], places: list[tuple[int, int]], shape: tuple[int, int]
    ) -> None:
        plan = SheetPlan(title="T", columns=tuple(columns), rows=tuple(rows), date=DAY)
        found = lay_out(plan, [cell(*place) for place in places], shape)
        boxes = [*found.places, *found.empty]
        assert len(found.places) == len(places)
        for index, box in enumerate(boxes):
            assert box.left >= 0 <= box.top
            assert box.left + box.width <= found.width
            assert box.top + box.height <= found.height
            assert not any(overlap(box, other) for other in boxes[index + 1 :])

    @pytest.mark.parametrize("plan", [HAIR, SheetPlan(title="All", date=DAY)])
    def test_a_thousand_pictures_make_no_giant(self, plan: SheetPlan) -> None:
        cells = [cell(index % 2, index // 2 % 2) for index in range(1000)]
        found = lay_out(plan, cells, (512, 768))
        assert found.width * found.height <= MOST_PIXELS
        assert max(found.width, found.height) < 10_000

    @pytest.mark.parametrize(("columns", "rows"), [(1000, 0), (0, 1000), (200, 5), (100, 1), (3, 300)])
    @pytest.mark.parametrize("uneven", [1, 16])
    def test_a_long_axis_is_broken_into_rows_with_captions(self, columns: int, rows: int, uneven: int) -> None:
        plan = SheetPlan(
            title="T",
            columns=tuple(f"c{n}" for n in range(columns)),
            rows=tuple(f"r{n}" for n in range(rows)),
            date=DAY,
        )
        cells = [cell(n % max(columns, 1), n // max(columns, 1)) for n in range(max(columns, 1) * max(rows, 1))]
        found = lay_out(plan, [*cells, *[cells[0]] * (uneven - 1) * 100], (512, 768))
        assert max(found.width, found.height) <= LONGEST
        assert found.width * found.height <= MOST_PIXELS
        assert min(found.width, found.height) * 8 > max(found.width, found.height), "its thumbnail shows something"

    @pytest.mark.parametrize("number", [1, 150, 16_000])
    def test_however_many_there_are_it_stays_within_its_bounds(self, number: int) -> None:
        found = lay_out(SheetPlan(title="T", date=DAY), [cell() for _ in range(number)], (512, 768))
        assert max(found.width, found.height) <= LONGEST
        assert found.width * found.height <= MOST_PIXELS

    def test_what_stands_under_no_axis_has_its_names_below_it(self) -> None:
        plan = SheetPlan(title="T", columns=tuple(f"c{n}" for n in range(150)), date=DAY)
        found = lay_out(plan, [cell(n) for n in range(150)], (512, 512))
        captions = {label.text: label.box for label in found.labels if label.text.startswith("c")}
        assert len(captions) == 150
        for index, place in enumerate(found.places):
            below = captions[f"c{index}"]
            assert (below.left, below.top) == (place.left, place.top + place.height)

    def test_pictures_stand_under_and_beside_their_labels(self) -> None:
        found = lay_out(HAIR, [cell(1, 0), cell(0, 1)], (64, 64))
        boxes = {label.text: label.box for label in found.labels}
        first, second = found.places
        assert boxes["blue"].left <= first.left < boxes["blue"].left + boxes["blue"].width
        assert boxes["a"].top <= first.top < boxes["a"].top + boxes["a"].height
        assert boxes["red"].left <= second.left < boxes["blue"].left
        assert boxes["b"].top <= second.top
        assert len(found.empty) == 2


def test_labels_are_what_the_font_can_draw() -> None:
    font = fonts(None, 14)
    assert drawable("Yuki, 12 steps: (a|b)", font) == "Yuki, 12 steps: (a|b)"
    assert drawable("café", font) == "cafe"
    assert drawable("銀髪 hair", font) == "?? hair"


def test_pictures_are_drawn_at_their_places_and_labels_leave_ink() -> None:
    layout = lay_out(HAIR, [cell(0, 0), cell(1, 1), cell(1, 0)], (64, 48))
    drawing = Drawing(layout, fonts(None, layout.text))
    drawing.put(0, picture(colour="red"))
    drawing.put(1, picture(colour="blue"))
    drawing.put(2, b"no picture")
    with Image.open(io.BytesIO(drawing.finished())) as image:
        image.load()
        for index, colour in ((0, "red"), (1, "blue")):
            box = layout.places[index]
            middle = image.getpixel((box.left + box.width // 2, box.top + box.height // 2))
            assert middle == ImageColor.getrgb(colour)
        for label in layout.labels:
            box = label.box
            area = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
            assert len(area.getcolors(1 << 16) or ()) > 1, label.text


@dataclass(slots=True)
class Studio:
    """A batch of two pictures in the library, and who makes its sheets."""

    desk: Desk
    maker: SheetMaker
    files: list[FileView] = field(default_factory=list)
    batch_id: UUID = field(default_factory=uuid7)

    def ended(self, version: int = 3, files: list[UUID] | None = None) -> Delivery:
        now = datetime.now(UTC)
        batch = Batch(
            id=self.batch_id,
            code="b4k7m2p9",
            name="Hair",
            client="gateway",
            project_id=PROJECT,
            project="sky",
            version=version,
            total=2,
            created_at=now,
            updated_at=now,
        )
        idents = files if files is not None else [file.id for file in self.files]
        plan = SheetPlan(title="Hair", column_axis="hair", columns=("red", "blue"), date=date(2026, 3, 14))
        cells = tuple(cell(index, 0, ident) for index, ident in enumerate(idents))
        message = BatchEnded(batch_id=self.batch_id, epoch=1, batch=batch, plan=plan, cells=cells)
        subject = message.subject_for()
        pulled = Pulled(subject, {}, message.body(), "$JS.ACK.ANIME_LEDGER.files-ledger.1.1.1.1.0")
        return Delivery(Envelope(message.ident(), message.ce_type(), "/anime/jobs", subject), message, pulled)

    async def sheets(self) -> list[FileView]:
        return list((await self.desk.library.list(FileQuery(type="grid"))).items)

    async def told(self, kind: type[Any]) -> list[Any]:
        return [each for each in await self.desk.said() if isinstance(each, kind)]


@pytest.fixture
async def studio(desk: Desk) -> Studio:
    maker = SheetMaker(
        desk.pool, desk.artifacts, DEFAULT_TEMPLATE, asyncio.Event(), 30.0, 384, None, committed=lambda: None
    )
    found = Studio(desk, maker)
    for colour in ("red", "blue"):
        data = picture(colour=colour)
        filing = filing_of(job(), [staged(data)])
        await desk.stage(filing, data)
        await desk.ledger.handle([delivery(filing)])
    found.files = list((await desk.library.list(FileQuery())).items)[::-1]
    return found


async def test_a_sheet_is_filed_like_any_picture(studio: Studio) -> None:
    await studio.desk.ledger.handle([studio.ended()])
    assert await studio.maker.make_one()
    assert not await studio.maker.make_one()
    (sheet,) = await studio.sheets()
    assert (sheet.key, sheet.type, sheet.name) == ("sky/2026-03-14/grid/b4k7m2p9_00.png", "grid", "Hair")
    data = await studio.desk.artifacts.get(sheet.key)
    assert len(data) == sheet.size
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (sheet.width, sheet.height)
        assert {colour for _, colour in image.getcolors(1 << 20) or ()} >= {(255, 0, 0), (0, 0, 255)}
    (made,) = await studio.told(SheetMade)
    assert (made.batch_id, made.batch_version, made.file.id) == (studio.batch_id, 3, sheet.id)
    assert [file.id for file in (await studio.desk.library.list(FileQuery(q="hair", type="grid"))).items] == [sheet.id]


async def test_asked_twice_it_is_made_once(studio: Studio) -> None:
    for _ in range(2):
        await studio.desk.ledger.handle([studio.ended()])
        while await studio.maker.make_one():
            pass
    assert len(await studio.sheets()) == len(await studio.told(SheetMade)) == 1


@pytest.mark.parametrize("point", ["after_reserve", "after_write", "after_commit"])
async def test_who_dies_on_the_way_leaves_a_sheet_that_is_made_once(studio: Studio, point: str) -> None:
    await studio.desk.ledger.handle([studio.ended()])
    failpoints.configure(f"files.sheet.{point}=error")
    with pytest.raises(FailpointError):
        await studio.maker.make_one()
    failpoints.configure("")
    assert len(await studio.sheets()) == (1 if point == "after_commit" else 0)
    while await studio.maker.make_one():
        pass
    (sheet,) = await studio.sheets()
    assert len(await studio.told(SheetMade)) == 1
    assert [path for path in studio.desk.lying() if "/grid/" in path] == [sheet.key]


async def test_a_newer_end_replaces_the_sheet(studio: Studio) -> None:
    await studio.desk.ledger.handle([studio.ended(3)])
    await studio.maker.make_one()
    (old,) = await studio.sheets()
    await studio.desk.ledger.handle([studio.ended(7)])
    await studio.maker.make_one()
    (new,) = await studio.sheets()
    assert (new.id != old.id, new.key) == (True, "sky/2026-03-14/grid/b4k7m2p9_00-2.png")
    assert [each.file_id for each in await studio.told(FileDeleted)] == [old.id]
    await studio.desk.sweeper.sweep()
    assert [path for path in studio.desk.lying() if "/grid/" in path] == [new.key]


async def test_an_older_one_that_was_not_made_yet_is_skipped(studio: Studio) -> None:
    await studio.desk.ledger.handle([studio.ended(3), studio.ended(7)])
    while await studio.maker.make_one():
        pass
    assert [each.batch_version for each in await studio.told(SheetMade)] == [7]


async def test_a_picture_that_is_gone_is_an_empty_place_and_none_at_all_is_told(studio: Studio) -> None:
    await studio.desk.library.delete(FileRef(id=studio.files[0].id))
    await studio.desk.ledger.handle([studio.ended(3)])
    await studio.maker.make_one()
    (sheet,) = await studio.sheets()
    with Image.open(io.BytesIO(await studio.desk.artifacts.get(sheet.key))) as image:
        colours = {colour for _, colour in image.getcolors(1 << 20) or ()}
    assert (255, 0, 0) not in colours
    assert ImageColor.getrgb(sheets.FAINT) in colours
    await studio.desk.ledger.handle([studio.ended(4, [uuid7()])])
    while await studio.maker.make_one():
        pass
    (failed,) = await studio.told(SheetFailed)
    assert (failed.batch_version, failed.reason) == (4, "none of its pictures is in the library")


async def test_a_sheet_that_cannot_be_made_is_told_and_holds_up_no_other(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    await studio.desk.ledger.handle([studio.ended(3)])
    with monkeypatch.context() as broken:
        broken.setattr(sheets.Drawing, "finished", lambda _: 1 // 0)
        assert await studio.maker.make_one()
    (failed,) = await studio.told(SheetFailed)
    assert (failed.batch_version, "ZeroDivisionError" in failed.reason) == (3, True)
    assert not await studio.maker.make_one()
    await studio.desk.ledger.handle([studio.ended(4)])
    assert await studio.maker.make_one()
    assert [each.batch_version for each in await studio.told(SheetMade)] == [4]


@pytest.mark.parametrize("point", ["after_reserve", "after_write"])
async def test_what_is_left_of_a_sheet_that_a_newer_end_superseded_is_removed(studio: Studio, point: str) -> None:
    await studio.desk.ledger.handle([studio.ended(3)])
    failpoints.configure(f"files.sheet.{point}=error")
    with pytest.raises(FailpointError):
        await studio.maker.make_one()
    failpoints.configure("")
    await studio.desk.ledger.handle([studio.ended(7)])
    while await studio.maker.make_one():
        pass
    await studio.desk.sweeper.sweep()
    (sheet,) = await studio.sheets()
    assert [path for path in studio.desk.lying() if "/grid/" in path] == [sheet.key]
    rows = await studio.desk.pool.fetch("SELECT state FROM files WHERE type = 'grid' ORDER BY state")
    assert [row["state"] for row in rows] == ["filed", "withdrawn"]


async def test_files_that_are_no_pictures_are_not_said_to_be_gone(studio: Studio) -> None:
    await studio.desk.pool.execute("UPDATE files SET thumbnail_key = NULL")
    await studio.desk.ledger.handle([studio.ended(3)])
    assert await studio.maker.make_one()
    (failed,) = await studio.told(SheetFailed)
    assert failed.reason == "none of its files is a picture"
