"""Other services' words for the same jobs: OpenAI, OpenRouter, fal, Lightricks.

Each reads a body into a `Draft` and tells a job in the service's own object; see draft.py and calls.py.
"""

from soundstage.server.dialects import fal, lightricks, openai, openrouter

# The first whose prefix fits a path gives the words of its errors.
DIALECTS = (openai.DIALECT, openrouter.DIALECT, fal.DIALECT, fal.KEYS, lightricks.V1, lightricks.DIALECT)
