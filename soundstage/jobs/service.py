"""Jobs of a server: the one door for every interface.

    jobs = Jobs.open(Path("data"), models=["nano"])
    job = jobs.create(LOCAL, JobRequest(request={"prompt": "A red ball bounces."}))
    jobs.get(LOCAL, job.id).state

Its methods may be called from any thread. The parts: submitting.py and assets.py for clients, leases.py for
workers, keys.py, hooks.py, offers.py, and housekeeping.py for the time in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from soundstage.errors import RequestError
from soundstage.jobs.admission import Admission
from soundstage.jobs.hooks import Hooks
from soundstage.jobs.housekeeping import Housekeeping
from soundstage.jobs.keys import KeyRing
from soundstage.jobs.limits import Limits
from soundstage.jobs.offers import Offers
from soundstage.jobs.references import Bring
from soundstage.jobs.store import Store


class Jobs(Housekeeping, KeyRing, Hooks, Offers):
    """The jobs, files and keys of a server, in a data folder and a database."""

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        database: str | None = None,
        models: Sequence[str] = ("nano",),
        limits: Limits = Limits(),
        bring: Bring | None = None,
        inputs: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Jobs:
        """Open a data folder, which is made if it is not there, and its database.

        database: a URL; None is a SQLite file in the folder. models: names that jobs may use, the usual one
        first. bring: fetches what https addresses and data: URIs in requests refer to; None refuses them.
        inputs: the folder of files that requests may name as "file:REL"; None refuses those.
        """
        if not models:
            raise RequestError("no model is given; name at least one", field="models")
        found = cls(Store.open(data, database), data.resolve(), limits, clock)
        found.admission = Admission(models)
        found.bring = bring
        found.inputs = inputs
        return found

    def close(self) -> None:
        """Close the database."""
        self.store.close()
