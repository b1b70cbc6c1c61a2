"""The ledger of Tower Anime Production: projects, characters, batches and jobs, and what runs next, where."""
