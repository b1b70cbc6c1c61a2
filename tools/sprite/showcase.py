"""The pictures that show what the model can do: fixed prompts, each drawn with the seed of its place."""

from __future__ import annotations

PROMPTS = (
    "1girl, blue hair, twintails, red eyes, smile, blue school uniform, classroom",
    "1girl, pink hair, long hair, green eyes, open mouth, pink kimono, cherry blossoms",
    "1boy, black hair, spiky hair, blue eyes, neutral expression, white armor, sunset",
    "1girl, blonde hair, ponytail, blue eyes, one eye closed, yellow sweater, ocean",
    "1girl, silver hair, bob cut, purple eyes, expressionless, black hoodie, night sky",
    "1boy, brown hair, bob cut, green eyes, smile, green sweater, forest",
    "1girl, black hair, long hair, red eyes, angry, red kimono, hair flower, sunset",
    "1girl, green hair, double bun, yellow eyes, surprised, green dress, yellow background",
    "1girl, orange hair, wavy hair, brown eyes, closed eyes, white dress, hat, ocean",
    "1boy, silver hair, spiky hair, red eyes, angry, black suit, night sky",
    "1girl, purple hair, bob cut, pink eyes, smile, cat ears, purple hoodie, pink background",
    "1girl, brown hair, wavy hair, green eyes, sad, blue suit, glasses, grey background",
    "1boy, blonde hair, long hair, purple eyes, smile, red armor, cherry blossoms",
    "1girl, red hair, twintails, green eyes, open mouth, dark skin, white school uniform, blue sky",
    "1girl, blue hair, long hair, yellow eyes, surprised, headphones, black sweater, night sky",
    "1boy, orange hair, spiky hair, brown eyes, open mouth, tan, red hoodie, blue sky",
    "1girl, pink hair, double bun, blue eyes, blush, smile, white kimono, forest",
    "1girl, black hair, ponytail, purple eyes, hair ribbon, sad, black school uniform, classroom",
    "1boy, green hair, bob cut, yellow eyes, glasses, expressionless, white suit, white background",
    "1girl, silver hair, wavy hair, blue eyes, hair flower, smile, blue dress, blue background",
    "1girl, blonde hair, long hair, red eyes, cat ears, one eye closed, red sweater, white background",
    "1boy, blue hair, wavy hair, green eyes, headphones, smile, yellow hoodie, grey background",
    "1girl, red hair, bob cut, brown eyes, hat, closed eyes, green kimono, forest",
    "1girl, purple hair, twintails, yellow eyes, parted bangs, open mouth, pink armor, sunset",
)
