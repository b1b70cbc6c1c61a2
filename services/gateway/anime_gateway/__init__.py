"""The door for people to Tower Anime Production: HTTP, SSE, WebSocket and the Studio page."""
