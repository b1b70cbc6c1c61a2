"""`anime doctor`: what is there, which versions, what is wrong, and how to mend it."""

from __future__ import annotations

import typer
from rich.text import Text

from anime_cli import local_checks, remote_checks, render
from anime_cli.errors import ExitStatus
from anime_cli.findings import Finding, Patient, Verdict, patient
from anime_cli.options import Json, Url, run, show_json
from anime_cli.settings import ClientSettings, StackSettings
from anime_common.settings import load

STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "red"}


def doctor(*, url: Url = None, as_json: Json = False) -> None:
    """Look at everything and say what is wrong and how to mend it; exit status 1 when something is."""
    who = patient(load(StackSettings), load(ClientSettings), url)
    found = run(_examined(who, show=not as_json), as_json=as_json)
    bad = [finding for finding in found if finding.verdict is Verdict.WRONG]
    if as_json:
        show_json(
            {
                "ok": not bad,
                "findings": [
                    {"about": one.about, "verdict": one.verdict, "detail": one.detail, "mend": one.mend}
                    for one in found
                ],
            }
        )
    else:
        render.console().print("\nall is well" if not bad else f"\n{len(bad)} to mend")
    if bad:
        raise typer.Exit(ExitStatus.FAILED)


async def _examined(who: Patient, *, show: bool) -> list[Finding]:
    found = list(local_checks.all_of(who))
    if show:
        for finding in found:
            _say(finding)
    async for finding in remote_checks.all_of(who):
        found.append(finding)
        if show:
            _say(finding)
    return found


def _say(finding: Finding) -> None:
    line = Text()
    line.append(f"{finding.verdict.value:<6}", style=STYLES[finding.verdict])
    line.append(f"{finding.about}: ", style="bold")
    line.append(finding.detail)
    render.console().print(line, soft_wrap=True)
    if finding.mend is not None and finding.verdict is not Verdict.OK:
        render.console().print(f"      → {finding.mend}", soft_wrap=True)
