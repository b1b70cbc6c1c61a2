"""Makes the built-in model: its pictures, its vocabulary, its training, its evaluation and its package."""
