"""The generator: holds models, makes pictures, and reports facts, heartbeats and live progress."""

__version__ = "0.1.0"
