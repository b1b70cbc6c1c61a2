"""What the library decides: keys, templates, whose staging is over, search words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.artifact_keys import checked
from anime_common.contracts.files import FilingFailed
from anime_common.contracts.jobs import JobFailed
from anime_common.contracts.vocabulary import SLUG_PATTERN, JobState
from anime_common.messages import uuid7
from anime_files import model
from anime_files.model import DEFAULT_TEMPLATE, Verdict, check_template, library_key
from tests.files.conftest import DAY, NOW, filing_of, job, picture, staged


def key(project: str = "sky", template: str = DEFAULT_TEMPLATE, suffix: int = 1, media_type: str = "image/png") -> str:
    return library_key(
        template, project=project, day=DAY, code="a1b2c3d4", index=3, media_type=media_type, suffix=suffix
    )


class TestKeys:
    def test_default(self) -> None:
        assert key() == "sky/2026-03-14/image/a1b2c3d4_03.png"
        assert key(media_type="video/mp4") == "sky/2026-03-14/video/a1b2c3d4_03.mp4"
        assert key(media_type="audio/mpeg") == "sky/2026-03-14/audio/a1b2c3d4_03.mp3"
        assert key(media_type="image/gif") == "sky/2026-03-14/image/a1b2c3d4_03.gif"
        assert key(media_type="image/jpeg", suffix=2) == "sky/2026-03-14/image/a1b2c3d4_03-2.jpg"

    def test_a_template_of_ones_own(self) -> None:
        assert key(template="{project}/{year}/{month}/{code}-{index}.{ext}") == "sky/2026/03/a1b2c3d4-03.png"

    @pytest.mark.parametrize("project", ["staging", "thumbnails", "uploads", "trash", "health"])
    def test_a_project_never_gets_a_folder_of_the_system(self, project: str) -> None:
        assert key(project).startswith(f"{project}_/")

    @pytest.mark.parametrize("project", ["", "..", "../x", "a/b", "Sky", "a b", ".hidden", "-a", "ä", "a\n"])
    def test_what_is_no_slug_is_refused(self, project: str) -> None:
        with pytest.raises(ValueError, match="not the slug"):
            key(project)

    @given(st.from_regex(SLUG_PATTERN, fullmatch=True), st.integers(1, 99))
    def test_every_slug_makes_a_safe_key(self, project: str, suffix: int) -> None:
        made = key(project.rstrip("\n"), suffix=suffix)
        assert checked(made) == made
        assert made.split("/")[0] not in model.RESERVED_FOLDERS

    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("{project}/{code}.{ext}", "index must appear"),
            ("{project}/{index}.{ext}", "code must appear"),
            ("{date}/{code}_{index}.{ext}", "project must appear"),
            ("x/{project}/{code}_{index}.{ext}", "must start with"),
            ("{project}/{code}_{index}", "must start with"),
            ("{project}/{code!r}_{index}.{ext}", "without any formatting"),
            ("{project}/{code:>9}_{index}.{ext}", "without any formatting"),
            ("{project}/{code.__class__}_{index}.{ext}", "not known"),
            ("{project}/{}_{code}_{index}.{ext}", "not known"),
            ("{project}/../{code}_{index}.{ext}", "not an artifact key"),
            ("{project}/a b/{code}_{index}.{ext}", "not an artifact key"),
            ("{project}/{code_{index}.{ext}", "unexpected '{'"),
        ],
    )
    def test_a_bad_template_says_why(self, template: str, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            check_template(template)

    def test_the_default_template_is_good(self) -> None:
        check_template(DEFAULT_TEMPLATE)


class TestEntries:
    def test_each_output_keeps_its_own_seed(self) -> None:
        filing = filing_of(job(), [staged(picture(), 0), staged(picture(), 1)])
        found = model.entries(filing, DEFAULT_TEMPLATE)
        assert not isinstance(found, Verdict)
        assert [(entry.settings.seed, entry.settings.count) for entry in found] == [(7, 1), (8, 1)]
        assert len({entry.id for entry in found}) == 2

    def test_an_index_listed_twice_is_refused(self) -> None:
        found = model.entries(filing_of(job(), [staged(picture(), 0), staged(picture(), 0)]), DEFAULT_TEMPLATE)
        assert isinstance(found, Verdict)
        assert (found.code, found.retryable) == ("bad_listing", False)

    def test_a_project_that_is_no_slug_is_refused(self) -> None:
        found = model.entries(filing_of(job(project="../etc"), [staged(picture())]), DEFAULT_TEMPLATE)
        assert isinstance(found, Verdict)
        assert (found.code, found.retryable) == ("bad_key", False)


class TestAnswer:
    def test_a_failure_carries_epoch_and_repeat(self) -> None:
        filing = filing_of(job(epoch=3), [staged(picture())], repeat=2)
        out = model.answer(filing, model.failed("staging_missing", "gone"), ())
        assert isinstance(out.message, FilingFailed)
        assert (out.message.epoch, out.message.repeat, out.message.retryable) == (3, 2, True)
        assert out.id == f"3:files:filing_failed:{filing.job.id}:{filing.attempt_id}:2"


class TestOver:
    def at(self, seconds: float) -> UUID:
        return uuid7(NOW + timedelta(seconds=seconds))

    def test_the_named_attempt_and_older_ones(self) -> None:
        old, named, newer = self.at(-60), self.at(0), self.at(60)
        event = JobFailed(job=job(JobState.FAILED, attempt_id=named))
        assert model.over(event.job, [old, named, newer]) == {old, named}

    def test_a_late_end_spares_the_attempt_of_a_retry(self) -> None:
        retried = self.at(1)
        event = JobFailed(job=job(JobState.FAILED, attempt_id=self.at(0), updated_at=NOW + timedelta(hours=1)))
        assert model.over(event.job, [retried]) == set()

    def test_without_a_named_attempt_those_made_before_the_end(self) -> None:
        before, after = self.at(-1), self.at(1)
        event = JobFailed(job=job(JobState.FAILED, attempt_id=None, updated_at=NOW))
        assert model.over(event.job, [before, after]) == {before}


class TestSearch:
    def test_words(self) -> None:
        assert model.words("1girl, (Blue_Hair:1.2), ÉCOLE? 髪 ") == ["1girl", "blue", "hair", "1", "2", "école", "髪"]

    @given(st.text())
    def test_words_are_safe_for_a_query(self, text: str) -> None:
        for word in model.words(text):
            assert word.isalnum() or not set(word) & set("&|!():*<> \\'\"")

    def test_the_time_of_an_id(self) -> None:
        assert abs(model._minted(uuid7()) - datetime.now(UTC)) < timedelta(seconds=5)
