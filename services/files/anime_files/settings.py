"""Settings of the files service."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageFont
from pydantic import Field, field_validator

from anime_common.settings import ServiceSettings, TimeZone
from anime_files.model import DEFAULT_TEMPLATE, check_template

_PILLOW_LIMIT = Image.MAX_IMAGE_PIXELS or 2**26


class FilesSettings(ServiceSettings):
    """`ANIME_FILES_*`, and what every service has. Times in seconds."""

    time_zone: TimeZone = Field("UTC", description="Time zone of the date under which uploads are filed.")
    files_key_template: str = Field(
        DEFAULT_TEMPLATE,
        description="Where a file lies: names in braces of project, date, year, month, type, code, index, ext.",
    )
    files_batch: int = Field(64, ge=1, le=500, description="How many ledger events share one transaction.")
    files_parallel: int = Field(4, ge=1, le=64, description="How many files are copied at once.")
    files_max_pixels: int = Field(
        _PILLOW_LIMIT, ge=4096, le=_PILLOW_LIMIT, description="Larger pictures are refused (decompression bombs)."
    )
    files_thumbnail_pixels: int = Field(384, ge=32, le=1024, description="Longest side of a thumbnail.")
    files_sweep_interval: float = Field(30.0, gt=0, description="How often objects left to remove are looked for.")
    files_staging_grace: float = Field(
        600.0, gt=0, description="Age at which staged files are removed, if their attempt is over."
    )
    files_upload_pixels: int = Field(
        64_000_000, ge=4096, le=_PILLOW_LIMIT, description="Larger uploads are refused (decompression bombs)."
    )
    files_upload_grace: float = Field(
        3600.0, gt=0, description="Age at which uploads go that were not taken into the library."
    )
    files_trash_days: float = Field(30.0, ge=0, description="Days after which what lies in the trash is deleted.")
    files_font: Path | None = Field(
        None, description="Font file for contact sheets; default: Pillow's own, which has Latin letters alone."
    )
    files_relay_interval: float = Field(0.25, gt=0, description="How often the outbox is looked at without being told.")

    @field_validator("files_font")
    @classmethod
    def _readable_font(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ImageFont.truetype(str(value), 12)
            except OSError as error:
                raise ValueError(f"{value} is no font that can be read: {error}") from error
        return value

    @field_validator("files_key_template")
    @classmethod
    def _usable_template(cls, value: str) -> str:
        check_template(value)
        return value
