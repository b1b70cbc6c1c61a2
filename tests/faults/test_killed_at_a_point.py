"""Each service is killed between any two of its steps: every job that was accepted ends once, and well."""

from __future__ import annotations

import pytest

from tests.faults.breaking import all_completed, armed, several
from tests.stacks import Product

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

POINTS = [
    ("jobs", "jobs.before_commit"),
    ("jobs", "jobs.after_commit"),
    ("jobs", "jobs.relay.before_delete"),
    ("jobs", "jobs.dispatch.before_commit"),
    ("jobs", "jobs.dispatch.after_commit"),
    ("files", "files.after_reserve"),
    ("files", "files.after_copy"),
    ("files", "files.before_commit"),
    ("files", "files.after_commit"),
    ("files", "files.relay.before_delete"),
    ("generator", "generator.offer_taken"),
    ("generator", "generator.before_started"),
    ("generator", "generator.step"),
    ("generator", "generator.before_finished"),
    ("generator", "generator.after_finished"),
    ("echo", "echo.before_commit"),
    ("echo", "echo.after_commit"),
    ("echo", "echo.relay.before_delete"),
    ("gateway", "gateway.submit.before_publish"),
    ("gateway", "gateway.submit.after_publish"),
]


@pytest.mark.parametrize(("service", "point"), POINTS, ids=[point for _, point in POINTS])
async def test_nothing_is_lost_or_doubled(faulty: Product, service: str, point: str) -> None:
    async with armed(faulty, service, f"{point}=kill") as points:
        jobs = await several(faulty, 4, optimize=service == "echo")
        await points.until_fired(point)
        await all_completed(faulty, jobs)
    await faulty.audit(accepted=jobs, dead=0)
