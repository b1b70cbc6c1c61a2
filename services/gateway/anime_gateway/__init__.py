"""The door for people to Tower Anime Production: HTTP, SSE, WebSocket and the Studio page."""

__version__ = "0.1.0"
