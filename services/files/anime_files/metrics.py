"""Prometheus metrics of the files service."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

FILED = Counter("anime_files_filed_total", "Files that reached the library.", ["type"])
FILED_BYTES = Counter("anime_files_filed_bytes_total", "Bytes that reached the library.", ["type"])
FAILED = Counter("anime_files_failed_total", "Filings that failed, by code.", ["code"])
REMOVED = Counter("anime_files_removed_total", "Objects removed from the store after deletion or withdrawal.")
CLEARED = Counter("anime_files_cleared_total", "Staged files removed after their attempt was over.")
REFUSED = Counter("anime_files_uploads_refused_total", "Uploads that were refused, by code.", ["code"])
EXPIRED = Counter("anime_files_uploads_expired_total", "Objects of uploads removed since nobody had registered them.")
FILE_SECONDS = Histogram(
    "anime_files_file_seconds",
    "Time to copy, verify and thumbnail one file.",
    ["type"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
SHEETS_FAILED = Counter("anime_files_sheets_failed_total", "Contact sheets that could not be made, by code.", ["code"])
SHEET_SECONDS = Histogram(
    "anime_files_sheet_seconds",
    "Time to draw one contact sheet, pictures read included.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
