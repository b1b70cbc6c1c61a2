"""Settings of the ledger: times in seconds."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from anime_common.contracts.batches import MAX_JOBS
from anime_common.settings import ServiceSettings, TimeZone
from anime_jobs.model import Policy
from anime_jobs.scheduler import Rules


class JobsSettings(ServiceSettings):
    """Read from `ANIME_*`; see also `anime_common.settings`."""

    time_zone: TimeZone = Field("UTC", description="Time zone of the date under which pictures are filed.")
    max_failures: int = Field(3, ge=1, le=20, description="Failures after which a job has failed.")
    retry_base: float = Field(2.0, gt=0, description="Delay before the second try; doubles each time.")
    retry_cap: float = Field(300.0, gt=0, description="Longest delay between tries.")
    prepare_bound: float = Field(30.0, gt=0, description="Longest wait for Echo.")
    prepare_nudge: float = Field(10.0, gt=0, description="Ask Echo again after this time.")
    filing_nudge: float = Field(15.0, gt=0, description="Ask files again after this time.")
    offer_repeat: float = Field(2.0, gt=0, description="Repeat an unanswered offer after this time.")
    offer_repeats: int = Field(5, ge=1, description="Repeats before an offer is taken back.")
    offer_rest: float = Field(10.0, ge=0, description="A worker that ignored an offer gets nothing for this time.")
    worker_lost_after: float = Field(20.0, gt=0, description="Silence after which a worker is lost.")
    worker_forget_after: float = Field(
        3600.0, gt=0, description="Absence after which a lost or departed worker and its consumer are forgotten."
    )
    look_ahead: int = Field(1, ge=0, le=8, description="Offers a worker gets beyond its slots.")
    affinity_bound: float = Field(60.0, ge=0, description="Longest wait for a worker that holds the model.")
    aging: float = Field(
        900.0, gt=0, description="A job rises by one priority class each time it has waited this long."
    )
    batch_limit: int = Field(MAX_JOBS, ge=1, le=MAX_JOBS, description="Most jobs of a batch.")
    wildcards: Path | None = Field(
        None, description="Folder of wildcards for dynamic prompts: NAME.txt, a value a line."
    )
    tick: float = Field(1.0, gt=0, le=5, description="Longest time between two looks at the whole.")
    queue_interval: float = Field(0.5, ge=0.1, description="Shortest time between two announcements of the queue.")
    topology_interval: float = Field(30.0, gt=0, description="Time between two checks of streams and consumers.")
    ack_wait: float | None = Field(
        None,
        ge=0.5,
        description="Time after which a dead reader's messages are delivered again; default: the topology's.",
    )
    leader_idle_timeout: float = Field(10.0, ge=3, description="Server-side time-out of a frozen leader's connection.")

    @model_validator(mode="after")
    def _forgotten_after_lost(self) -> JobsSettings:
        if self.worker_forget_after < self.worker_lost_after:
            raise ValueError("worker_forget_after must not be less than worker_lost_after")
        return self

    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.time_zone)

    def policy(self) -> Policy:
        """What single-job decisions need."""
        return Policy(
            max_failures=self.max_failures,
            retry_base=self.retry_base,
            retry_cap=self.retry_cap,
            prepare_bound=self.prepare_bound,
            prepare_nudge=self.prepare_nudge,
            filing_nudge=self.filing_nudge,
            offer_repeat=self.offer_repeat,
        )

    def rules(self) -> Rules:
        """What the scheduler needs."""
        return Rules(affinity_bound=self.affinity_bound, aging=self.aging)
