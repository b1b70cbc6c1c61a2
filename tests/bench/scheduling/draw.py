"""Draws waiting times by quantile from JSON on stdin; run by the benchmarks' own environment, which has matplotlib."""

from __future__ import annotations

import json
import sys

COLOURS = {"interactive": "#c2417c", "normal": "#3b6fb6", "batch": "#4d8f5b"}
SHORTEST = 0.5
"""Seconds; less is drawn as this, since the axis is logarithmic."""


def main() -> None:
    """One panel a fleet; solid what the plan does, dashed first come, first served."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "anime"
    import matplotlib.pyplot as plt

    panels = json.load(sys.stdin)["panels"]
    fleets = sorted({panel["workers"] for panel in panels})
    figure, axes = plt.subplots(1, len(fleets), figsize=(11, 4.2), layout="constrained", squeeze=False)
    for axis, workers in zip(axes[0], fleets, strict=True):
        for panel in (each for each in panels if each["workers"] == workers):
            axis.set_title(panel["title"])
            for name, waits in panel["waits"].items():
                style = "-" if panel["policy"] == "plan" else "--"
                seconds = [max(each, SHORTEST) for each in waits]
                share = [100 * (n + 1) / len(waits) for n in range(len(waits))]
                label = f"{name}, {panel['policy']}"
                axis.plot(seconds, share, style, color=COLOURS[name], label=label, linewidth=1.4)
        axis.set_xscale("log")
        axis.set_xlabel("seconds of waiting")
        axis.grid(visible=True, alpha=0.25)
    axes[0][0].set_ylabel("% of jobs that waited no longer")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center")
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
