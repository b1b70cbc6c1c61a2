"""The vocabulary and plumbing that all services of Tower Anime Production share."""
