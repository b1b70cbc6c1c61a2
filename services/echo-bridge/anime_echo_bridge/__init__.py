"""The bridge from Tower Anime Production to language models."""
