"""The anime command and the embedded stack of Tower Anime Production."""
