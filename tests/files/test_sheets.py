"""Contact sheets: laid out, drawn, filed once, and replaced when their batch ends again."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
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
from anime_common.messages import Envelope, uuid7
from anime_common.outcomes import Unavailable
from anime_common.pull import Pulled
from anime_files import metrics, sheets
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
        assert max(found.width, found.height) <= LONGEST

    @pytest.mark.parametrize(
        ("columns", "rows", "places"),
        [
            (1000, 0, [(index, 0) for index in range(1000)]),
            (0, 1000, [(0, index) for index in range(1000)]),
            (1, 1000, [(0, index) for index in range(1000)]),
            (500, 2, [(index // 2, index % 2) for index in range(1000)]),
            (30, 30, [*((index % 30, index // 30) for index in range(900)), *((4, 4),) * 100]),
            (1000, 1000, [(index, index) for index in range(1000)]),
            (0, 0, [(0, 0)] * 20_000),
        ],
    )
    @pytest.mark.parametrize("shape", [(1, 1), (512, 768), (4096, 100)])
    def test_no_sheet_is_larger_than_it_may_be(
        self, columns: int, rows: int, places: list[tuple[int, int]], shape: tuple[int, int]
    ) -> None:
        names = [f"{number:040d}" for number in range(1000)]
        plan = SheetPlan(title="T", columns=tuple(names[:columns]), rows=tuple(names[:rows]), date=DAY)
        found = lay_out(plan, [cell(*place) for place in places], shape)
        assert max(found.width, found.height) <= LONGEST
        assert found.width * found.height <= MOST_PIXELS
        assert len(found.places) == min(len(places), sheets.MOST_CELLS)
        assert len({(box.left, box.top) for box in found.places}) == len(found.places)
        for box in (*found.places, *found.empty, *(label.box for label in found.labels)):
            assert box.left >= 0 <= box.top
            assert (box.left + box.width <= found.width, box.top + box.height <= found.height) == (True, True)
        if len(places) > sheets.MOST_CELLS:
            assert "and 15000 more" in [label.text for label in found.labels]

    @pytest.mark.parametrize("down", [False, True])
    def test_a_long_axis_goes_on_in_bands_under_its_labels(self, down: bool) -> None:
        names = tuple(f"seed {number}" for number in range(300))
        plan = SheetPlan(title="T", columns=() if down else names, rows=names if down else (), date=DAY)
        found = lay_out(plan, [cell(0, index) if down else cell(index, 0) for index in range(300)], (512, 512))
        boxes = {label.text: label.box for label in found.labels}
        for name, place in zip(names, found.places, strict=True):
            middle = (place.left + place.width // 2, place.top + place.height // 2)
            beside = boxes[name].top <= middle[1] < boxes[name].top + boxes[name].height
            under = boxes[name].left <= middle[0] < boxes[name].left + boxes[name].width
            near = boxes[name].left + boxes[name].width if down else boxes[name].top + boxes[name].height
            assert beside if down else under
            assert 0 <= (place.left if down else place.top) - near <= 40
        assert len({place.left if down else place.top for place in found.places}) > 1

    def test_pictures_that_share_a_place_have_their_labels_under_them(self) -> None:
        cells = [cell(0, 0).model_copy(update={"label": f"seed {number}"}) for number in range(3)]
        found = lay_out(HAIR, cells, (256, 256))
        boxes = {label.text: label.box for label in found.labels}
        for number, place in enumerate(found.places):
            assert (boxes[f"seed {number}"].left, boxes[f"seed {number}"].top) == (place.left, place.top + place.height)
            assert not any(overlap(boxes[f"seed {number}"], other) for other in found.places)
        assert "across: hair, down: scene" in boxes
        alone = lay_out(HAIR, [each.model_copy(update={"row": row}) for row, each in enumerate(cells[:2])], (256, 256))
        assert not {"seed 0", "seed 1"} & {label.text for label in alone.labels}

    def test_what_the_event_left_out_is_said(self) -> None:
        found = lay_out(HAIR.model_copy(update={"more": 7}), [cell()], (64, 64))
        assert "across: hair, down: scene, and 7 more" in [label.text for label in found.labels]

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
        for label in filter(lambda label: label.text, layout.labels):
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

    def ended(self, version: int = 3, files: list[UUID] | None = None, epoch: int = 1) -> Delivery:
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
        message = BatchEnded(batch_id=self.batch_id, epoch=epoch, batch=batch, plan=plan, cells=cells)
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


async def dies_at(studio: Studio, point: str, gate: Path) -> None:
    """A maker that comes to a point, and is never heard of again."""
    record = gate.with_suffix(".hit")
    gate.touch()
    failpoints.configure(f"files.sheet.{point}=hold:{gate}", record)
    dying = asyncio.create_task(studio.maker.make_one())
    async with asyncio.timeout(20):
        while not record.exists():
            await asyncio.sleep(0.01)
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    failpoints.configure("")


def grids(studio: Studio) -> list[str]:
    return [path for path in studio.desk.lying() if "/grid/" in path]


async def true_of_its_bytes(studio: Studio, sheet: FileView) -> bool:
    data = await studio.desk.artifacts.get(sheet.key)
    return (len(data), hashlib.sha256(data).hexdigest()) == (sheet.size, sheet.sha256)


@pytest.mark.parametrize("point", ["after_reserve", "after_write", "after_commit"])
async def test_who_dies_on_the_way_leaves_a_sheet_that_is_made_once(studio: Studio, point: str, tmp_path: Path) -> None:
    await studio.desk.ledger.handle([studio.ended()])
    await dies_at(studio, point, tmp_path / "gate")
    assert len(await studio.sheets()) == (1 if point == "after_commit" else 0)
    while await studio.maker.make_one():
        pass
    await studio.desk.sweeper.sweep()
    (sheet,) = await studio.sheets()
    assert len(await studio.told(SheetMade)) == 1
    assert grids(studio) == [sheet.key]


@pytest.mark.parametrize("point", ["after_reserve", "after_write"])
@pytest.mark.parametrize("kept", [True, False])
async def test_what_the_dead_wrote_goes_when_a_newer_end_comes(
    studio: Studio, point: str, kept: bool, tmp_path: Path
) -> None:
    await studio.desk.ledger.handle([studio.ended(3)])
    await dies_at(studio, point, tmp_path / "gate")
    await studio.desk.ledger.handle([studio.ended(7, None if kept else [uuid7()])])
    while await studio.maker.make_one():
        pass
    await studio.desk.sweeper.sweep()
    assert grids(studio) == [sheet.key for sheet in await studio.sheets()]
    assert len(await studio.sheets()) == kept
    assert [row["key"] for row in await studio.desk.rows("reserved")] == []


async def test_an_older_end_that_comes_late_takes_nothing_from_a_newer_one(studio: Studio, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    failpoints.configure(f"files.sheet.after_write=hold:{gate}", tmp_path / "hit")
    await studio.desk.ledger.handle([studio.ended(7)])
    making = asyncio.create_task(studio.maker.make_one())
    async with asyncio.timeout(20):
        while not (tmp_path / "hit").exists():
            await asyncio.sleep(0.01)
    await studio.desk.ledger.handle([studio.ended(3)])
    gate.unlink()
    assert await making
    assert [each.batch_version for each in await studio.told(SheetMade)] == [7]
    assert await studio.told(SheetFailed) == []


async def test_two_makers_at_once_leave_one_sheet_that_is_what_it_says(studio: Studio) -> None:
    other = replace(studio.maker, thumbnail_pixels=64)
    await studio.desk.ledger.handle([studio.ended()])
    await asyncio.gather(studio.maker.make_one(), other.make_one())
    await studio.desk.sweeper.sweep()
    (sheet,) = await studio.sheets()
    assert len(await studio.told(SheetMade)) == 1
    assert await true_of_its_bytes(studio, sheet)
    assert grids(studio) == [sheet.key]


async def test_trouble_that_waiting_does_not_mend_is_told_and_the_next_sheet_is_made(studio: Studio) -> None:
    await studio.desk.ledger.handle([studio.ended()])
    failed_before = metrics.SHEETS_FAILED.labels(code="error")._value.get()
    failpoints.configure("files.sheet.after_write=error")
    assert await studio.maker.make_one()
    (failed,) = await studio.told(SheetFailed)
    assert failed.reason == "it could not be made: FailpointError, see the log of files"
    assert metrics.SHEETS_FAILED.labels(code="error")._value.get() == failed_before + 1
    assert not await studio.maker.make_one()
    await studio.desk.sweeper.sweep()
    assert grids(studio) == []
    await studio.desk.ledger.handle([studio.ended(4)])
    assert await studio.maker.make_one()
    assert len(await studio.sheets()) == 1


async def test_an_event_that_nobody_can_read_stops_nothing(studio: Studio) -> None:
    await studio.desk.ledger.handle([studio.ended()])
    async with studio.desk.pool.acquire() as connection:
        await connection.execute("UPDATE sheets SET asked = '{}'")
    running = asyncio.create_task(studio.maker.run())
    async with asyncio.timeout(20):
        while not await studio.told(SheetFailed):
            await asyncio.sleep(0.01)
    studio.maker.stop.set()
    await running


async def test_a_store_that_is_away_is_waited_for(studio: Studio) -> None:
    away = studio.desk.root.with_name("away")
    await studio.desk.ledger.handle([studio.ended()])
    studio.desk.root.rename(away)
    studio.desk.root.touch()
    with pytest.raises(Unavailable):
        await studio.maker.make_one()
    assert await studio.told(SheetFailed) == []
    studio.desk.root.unlink()
    away.rename(studio.desk.root)
    assert await studio.maker.make_one()
    (sheet,) = await studio.sheets()
    assert await true_of_its_bytes(studio, sheet)


async def test_a_restored_ledger_ends_a_batch_again_at_a_version_that_is_known(studio: Studio) -> None:
    for epoch in (1, 2):
        await studio.desk.ledger.handle([studio.ended(3, epoch=epoch)])
        while await studio.maker.make_one():
            pass
    assert [(each.epoch, each.batch_version) for each in await studio.told(SheetMade)] == [(1, 3), (2, 3)]
    (sheet,) = await studio.sheets()
    assert sheet.id == (await studio.told(SheetMade))[1].file.id


async def test_sounds_have_a_tile_that_says_so(studio: Studio) -> None:
    async with studio.desk.pool.acquire() as connection:
        await connection.execute(
            "UPDATE files SET type = 'audio', thumbnail_key = NULL, width = 0, height = 0, duration = 12.34"
        )
    await studio.desk.ledger.handle([studio.ended()])
    await studio.maker.make_one()
    (sheet,) = await studio.sheets()
    cells, shape = [cell(0), cell(1)], (160, 160)
    layout = lay_out(SheetPlan(title="Hair", column_axis="hair", columns=("red", "blue"), date=DAY), cells, shape)
    expected = Drawing(layout, fonts(None, layout.text))
    for index in range(2):
        expected.tell(index, "audio 12.3 s")
    assert await studio.desk.artifacts.get(sheet.key) == expected.finished()
    expected.put(0, None)
    assert await studio.desk.artifacts.get(sheet.key) != expected.finished()


async def test_a_thousand_pictures_are_really_drawn(studio: Studio) -> None:
    await studio.desk.ledger.handle([studio.ended(3, [studio.files[index % 2].id for index in range(1000)])])
    await studio.maker.make_one()
    (sheet,) = await studio.sheets()
    assert max(sheet.width, sheet.height) <= LONGEST
    assert sheet.width * sheet.height <= MOST_PIXELS
    with Image.open(io.BytesIO(await studio.desk.artifacts.get(sheet.key))) as image:
        colours = {colour: count for count, colour in image.getcolors(1 << 20) or ()}
    assert min(colours[255, 0, 0], colours[0, 0, 255]) > 500 * 30 * 30


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
    assert (failed.batch_version, failed.reason) == (4, "nothing that its jobs made is in the library")
