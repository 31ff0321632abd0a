"""The rule of the addresses that a server calls: none, all public https ones, or those of a list.

    off                        none
    https                      https on public addresses
    cdn.example.com            https on this name; *.example.com: on all names below it
    http://files.example.com   plain http on this name too
    private:http://minio:9000  this name, whatever network it leads into

Entries of a list are separated by commas; "https" may be one of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soundstage.errors import RequestError, shown
from soundstage.intake.addresses import public_addresses, resolved

if TYPE_CHECKING:
    import httpx

OFF_WORD, ANY_WORD, PRIVATE = "off", "https", "private:"
STANDARD_PORTS = {"https": 443, "http": 80}
LOWEST_OTHER_PORT, HIGHEST_PORT = 1024, 65535  # below them live other services than web servers
MAX_URL = 2000
ENTRY = re.compile(
    r"(?:(https?)://)?((?:\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?", re.IGNORECASE
)
NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)+"
)
NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)  # the last part of an IPv4 address


@dataclass(frozen=True)
class CallTarget:
    """The address that a call goes to, and the network addresses it may connect to."""

    url: httpx.URL
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class HostEntry:
    """One entry of a list. port: None is the scheme's own, and any from 1024 on."""

    scheme: str
    host: str
    port: int | None
    private: bool

    def covers(self, url: httpx.URL) -> bool:
        """Return whether an address is one of this entry's."""
        scheme_fits = url.scheme == "https" or url.scheme == self.scheme
        return scheme_fits and self._names(name_of(url)) and self._has_port(url)

    def _names(self, host: str) -> bool:
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) >= len(self.host)
        return host == self.host.strip("[]")

    def _has_port(self, url: httpx.URL) -> bool:
        return is_web_port(url) if self.port is None else port_of(url) == self.port


@dataclass(frozen=True)
class FetchRule:
    """The rule of a server. any_public: https on every public address. entries: what else may be called."""

    any_public: bool = False
    entries: tuple[HostEntry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> FetchRule:
        """Return the rule of a setting. Raises RequestError for a word that is none."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        if words == [OFF_WORD] or not words:
            return cls()
        return cls(ANY_WORD in words, tuple(_entry(word) for word in words if word != ANY_WORD))

    @property
    def is_off(self) -> bool:
        """Return whether no address is called."""
        return not self.any_public and not self.entries

    def check(self, url: str, field: str | None = None) -> httpx.URL:
        """Return an address that the rule allows by its words. Raises RequestError for any other."""
        asked = _parsed(url, field)
        if self.is_off:
            raise RequestError(
                "this server calls no addresses; upload the file and name it asset:ID", field=field
            )
        if self._entry_of(asked) is not None:
            return asked
        if (
            self.any_public
            and asked.scheme == "https"
            and is_web_port(asked)
            and NAME.fullmatch(name_of(asked))
        ):
            if not NUMERIC.fullmatch(name_of(asked).rpartition(".")[2]):
                return asked
            raise RequestError(
                f"{_told(url)} has a number for a name; give an address with a name", field=field
            )
        raise RequestError(
            f"{_told(url)} is no address that this server calls ({self.words}); upload the file instead",
            field=field,
        )

    def target(self, url: str) -> CallTarget:
        """Return where a call goes, its name resolved once. Raises RequestError for what is not allowed."""
        asked = self.check(url)
        entry = self._entry_of(asked)
        find = resolved if entry is not None and entry.private else public_addresses
        return CallTarget(asked, tuple(find(name_of(asked), port_of(asked))))

    @property
    def words(self) -> str:
        """Return the rule in words."""
        names = sorted({entry.host for entry in self.entries})
        told = [*(["https on public addresses"] if self.any_public else []), *names]
        return "it calls " + ", ".join(told) if told else "it calls none"

    def _entry_of(self, url: httpx.URL) -> HostEntry | None:
        return next((entry for entry in self.entries if entry.covers(url)), None)


OFF = FetchRule()
PUBLIC = FetchRule(any_public=True)


def port_of(url: httpx.URL) -> int:
    """Return the port of an address."""
    return url.port or STANDARD_PORTS[url.scheme]


def name_of(url: httpx.URL) -> str:
    """Return the name in an address as the network has it: in ASCII, in small letters, without brackets."""
    return url.raw_host.decode("ascii").lower().strip("[]")


def is_web_port(url: httpx.URL) -> bool:
    """Return whether a web server may live at an address's port."""
    port = port_of(url)
    return port == STANDARD_PORTS[url.scheme] or LOWEST_OTHER_PORT <= port <= HIGHEST_PORT


def _entry(word: str) -> HostEntry:
    private = word.startswith(PRIVATE)
    found = ENTRY.fullmatch(word.removeprefix(PRIVATE))
    if found is None or (found[3] is not None and not 0 < int(found[3]) <= HIGHEST_PORT):
        raise RequestError(
            f"{shown(word)} is no entry of a rule; give off, https, a name such as cdn.example.com or "
            "*.example.com, http://NAME, or private:http://NAME:PORT"
        )
    port = None if found[3] is None else int(found[3])
    return HostEntry((found[1] or "https").lower(), found[2].lower(), port, private)


def _parsed(url: str, field: str | None) -> httpx.URL:
    """Return an address in its parts. Raises RequestError for words that are none, or hold a password."""
    if len(url) > MAX_URL:
        raise RequestError(f"the address has {len(url)} letters; at most {MAX_URL} are taken", field=field)
    if any(c.isspace() or not c.isprintable() or c == "\\" for c in url):
        raise RequestError(f"{_told(url)} has a blank or a control letter within; leave it out", field=field)
    import httpx  # here, since most servers call nobody

    try:
        asked = httpx.URL(url)
        host = name_of(asked)
    except (httpx.InvalidURL, ValueError):
        raise RequestError(
            f"{_told(url)} is no address; give one such as https://example.com/a.png", field=field
        ) from None
    if asked.scheme not in STANDARD_PORTS or not host:
        raise RequestError(f"{_told(url)} is no address; give one that begins with https://", field=field)
    if asked.userinfo:
        raise RequestError(
            "the address holds a name or password, which is not sent; leave it out", field=field
        )
    return asked


def _told(url: str) -> str:
    """Return an address for a message: without its query, which may hold a secret."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("?")[0].partition("#")[0].rpartition("@")[2]
    return shown(f"{scheme}://{host}" if rest else url.partition("?")[0])
