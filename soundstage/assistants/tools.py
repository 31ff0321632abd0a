"""The MCP server: its tools and resources, over whatever makes the clips."""

from __future__ import annotations

import io
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from soundstage.assistants.makers import AssistantJob, AssistantMaker, sentence
from soundstage.errors import SoundstageError
from soundstage.files import reserved_name

if TYPE_CHECKING:
    from soundstage.clip import Clip

T = TypeVar("T")
POSTER_SIDE = 320  # pixels
INSTRUCTIONS = (
    "Make short films with synchronized sound from words, pictures, clips and sounds. Read the resource "
    "soundstage://prompting before you write a prompt; plan before a long clip; generate waits and reports "
    "progress, generate with wait=false returns an id for status, result and cancel."
)
PROMPTING = """Prompts in English, in plain sentences in the present tense.
- Say what is seen first: subject, its look, what it does, where, the light; then the camera.
- Say what is heard, with its source: "Rain patters on a tin roof." Speech: She says: "Good morning."
- One action for a short clip. Parts that follow each other: "first part | second part", or with times
  "[0-2s] ... [2-4s] ...".
- Leave out lists of keywords and words of quality; they change little.
- The shipped model nano knows a small world: balls, cubes, stars and the like in plain colours that bounce,
  roll or blink, on a floor or at night, with rain, thuds and tones. Keep to such sentences with it.
- A picture as first frame: guides=["door.png"]; as last one: guides=["end.png@last"]. A sound to follow:
  audio="beat.wav".
- The same seed and fields give the same clip; change the seed for a variation.
"""


def mcp_server(maker: AssistantMaker, folder: Path) -> MCPServer[Any]:
    """Return a server whose clips are written into a folder."""
    server: MCPServer[Any] = MCPServer("soundstage", instructions=INSTRUCTIONS, log_level="WARNING")
    tools = AssistantTools(maker, folder)
    for tool in (
        tools.plan,
        tools.generate,
        tools.status,
        tools.result,
        tools.cancel,
        tools.models,
        tools.recipes,
    ):
        server.add_tool(tool, structured_output=False)
    server.resource("soundstage://prompting", name="prompting", description="How to write prompts.")(
        prompting
    )
    server.resource("soundstage://fields", name="fields", description="All fields of a request.")(
        request_fields
    )
    return server


def prompting() -> str:
    """Return how prompts are written."""
    return PROMPTING


def request_fields() -> dict[str, Any]:
    """Return the JSON schema of a request."""
    from soundstage.request.request import Request

    return Request.model_json_schema()


class AssistantTools:
    """The tools. Their docstrings are what an assistant reads."""

    def __init__(self, maker: AssistantMaker, folder: Path) -> None:
        self._maker, self._folder = maker, folder
        self._paths: dict[str, Path] = {}  # of clips that are written

    async def plan(self, prompt: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        """Tell what would be made and what it takes, without making it.

        fields: as generate takes them.
        """
        return await _told(self._maker.plan({"prompt": prompt, **(fields or {})}))

    async def generate(
        self,
        prompt: str,
        context: Context[Any, Any],
        duration_s: float | None = None,
        size: str | None = None,
        seed: int | None = None,
        guides: list[str] | None = None,
        audio: str | None = None,
        recipe: str | None = None,
        fields: dict[str, Any] | None = None,
        wait: bool = True,
    ) -> list[Any]:
        """Make a clip with sound; returns its file's path and a small picture of it.

        size: "192x128", "portrait", "720p". guides: pictures, PATH[@TIME][:STRENGTH]. audio: a sound to
        follow. fields: any other fields of a request, see the resource soundstage://fields. wait: False
        returns an id at once, for status, result and cancel.
        """
        named = {"duration_s": duration_s, "size": size, "seed": seed, "guides": guides, "audio": audio}
        given = {key: value for key, value in {**named, "recipe": recipe}.items() if value is not None}
        job = await _told(self._maker.submit({"prompt": prompt, **given, **(fields or {})}))
        if not wait:
            return [await _told(job.status())]
        try:
            return await _told(self._waited(job, context))
        except BaseException:
            await job.cancel()
            raise

    async def status(self, id: str) -> dict[str, Any]:
        """Tell how far a clip is: its state, the share that is done, its error."""
        return await _told((await _told(self._maker.job(id))).status())

    async def result(self, id: str, context: Context[Any, Any]) -> list[Any]:
        """Wait for a clip that was begun with wait=false; returns its file's path and a small picture."""
        return await _told(self._waited(await _told(self._maker.job(id)), context))

    async def cancel(self, id: str) -> dict[str, Any]:
        """Cancel a clip that waits or is made."""
        return await _told((await _told(self._maker.job(id))).cancel())

    async def models(self) -> list[dict[str, Any]]:
        """List the models that clips can be made with."""
        return await _told(self._maker.models())

    async def recipes(self) -> list[dict[str, str]]:
        """List the recipes and what each is for."""
        from soundstage.request.recipes import all_recipes

        return [{"name": r.name, "summary": r.summary, "best_for": r.best_for} for r in all_recipes()]

    async def _waited(self, job: AssistantJob, context: Context[Any, Any]) -> list[Any]:
        reached = -1.0
        async for now in job.progress():
            if now.fraction > reached:
                reached = now.fraction
                await context.report_progress(now.fraction, 1.0, now.phase)
        clip = await job.clip()
        path = self._kept(job.id, clip)
        told = {
            **(await job.status()),
            "path": str(path),
            "link": path.as_uri(),
            "duration_s": clip.duration_s,
        }
        return [told] if clip.frames is None else [told, Image(data=_poster(clip), format="jpeg")]

    def _kept(self, id: str, clip: Clip) -> Path:
        """Write a clip under a name that no file has yet, once; return its path."""
        if id not in self._paths:
            self._folder.mkdir(parents=True, exist_ok=True)
            with reserved_name(self._folder, id, clip.suffixes[0]) as name:
                self._paths[id] = clip.save(name.path).absolute()
        return self._paths[id]


async def _told(work: Awaitable[T]) -> T:
    """Return what work returns; its errors become sentences for the assistant."""
    from concurrent.futures import CancelledError

    try:
        return await work
    except (SoundstageError, CancelledError, OSError) as error:
        raise ToolError(sentence(error)) from None


def _poster(clip: Clip) -> bytes:
    """Return the middle frame as a small JPEG."""
    frames = clip.to_pil()
    picture = frames[len(frames) // 2]
    picture.thumbnail((POSTER_SIDE, POSTER_SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return data.getvalue()
