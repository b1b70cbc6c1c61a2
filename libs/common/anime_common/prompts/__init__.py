"""Prompts as text: what people write, taken apart. Pure."""
