"""Read a multipart form whose one file is streamed: nothing of it is held in memory or spooled."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from soundstage.server.failures import BadCall, WrongType

MAX_FIELD_BYTES = 4096  # of a field that is no file
MAX_PARTS = 20
FILE = "file"


@dataclass
class _Part:
    """A part of the form under way."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    file_name: str | None = None
    value: bytearray = field(default_factory=bytearray)


class FileForm:
    """A form with one file in the field "file", and short fields beside it.

        form = FileForm(content_type, request.stream())
        async for piece in form.pieces(): ...
        form.fields, form.file_name        # complete once all pieces were taken

    Raises BadCall or WrongType for anything else.
    """

    def __init__(self, content_type: str, stream: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise WrongType(
                "an upload is a multipart form with the field 'file', or the bytes themselves with ?name="
            )
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.has_file = False
        self._stream = stream
        self._ready: deque[bytes] = deque()
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._count = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._keep_header,
                "on_headers_finished": self._name_part,
                "on_part_data": self._take,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the file as they come."""
        try:
            async for chunk in self._stream:
                self._parser.write(chunk)
                while self._ready:
                    yield self._ready.popleft()
        except MultipartParseError as error:
            raise BadCall(f"the form cannot be read ({error}); send a multipart form") from None
        if not self._ended:
            raise BadCall("the form breaks off before its end; send it again")
        if not self.has_file:
            raise BadCall("the form has no file; put it into the field 'file'")

    def _begin(self) -> None:
        self._part = _Part()
        self._count += 1
        if self._count > MAX_PARTS:
            raise BadCall(f"the form has more than {MAX_PARTS} parts; send one file")

    def _keep_header(self) -> None:
        name, value = self._header
        self._part.headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _name_part(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        given = options.get(b"filename")
        self._part.file_name = None if given is None else given.decode("utf-8", "replace")
        if self._part.name == FILE:
            if self.has_file:
                raise BadCall("the form has two files; send each by itself")
            self.has_file, self.file_name = True, self._part.file_name

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == FILE:
            self._ready.append(data[start:end])
            return
        self._part.value.extend(data[start:end])
        if len(self._part.value) > MAX_FIELD_BYTES:
            raise BadCall(f"the field {self._part.name!r} is longer than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._part.name != FILE:
            self.fields[self._part.name] = self._part.value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True
