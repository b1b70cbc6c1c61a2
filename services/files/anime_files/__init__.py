"""The library of finished files of Tower Anime Production."""
