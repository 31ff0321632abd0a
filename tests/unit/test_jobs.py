"""Jobs: submitted, claimed by lease, finished once, and what becomes of them when a worker is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from safetensors.torch import save_file

from soundstage.errors import RequestError
from soundstage.jobs import tables
from soundstage.jobs.errors import Conflict, Gone, LeaseLost, NotFound, TooMany
from soundstage.jobs.limits import Limits
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import (
    LOCAL,
    JobProgress,
    JobRequest,
    MadeFile,
    MadeFiles,
    Owner,
    WorkerInfo,
    WorkReport,
)

PROMPT = {"prompt": "A red ball bounces.", "duration_s": 1.0}
ANNA = Owner(id="anna", name="anna")
BEN = Owner(id="ben", name="ben")
WORKER = WorkerInfo(id="w1", name="one")


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock, database: str | None) -> Iterator[Jobs]:
    found = Jobs.open(
        tmp_path / "data", database=database, clock=clock, limits=Limits(max_queued_per_owner=5)
    )
    yield found
    found.close()


def asked(**more: object) -> JobRequest:
    return JobRequest(request={**PROMPT, **more})


def finish(jobs: Jobs, lease_id: str, data: bytes = b"clip") -> None:
    (jobs.tmp / "made.mp4").write_bytes(data)
    file = MadeFile(file="made.mp4", media_type="video/mp4", info={"width": 192})
    jobs.finish(lease_id, MadeFiles(files={"clip": file}, seconds={"denoise": 2.0}))


def test_a_job_is_planned_claimed_and_finished(jobs: Jobs) -> None:
    job = jobs.create(ANNA, asked())
    assert (job.state, job.position, job.model) == ("queued", 0, "nano")
    assert job.seed is not None
    assert job.plan is not None
    assert job.plan.duration_s > 0.9
    lease = jobs.claim(WORKER)
    assert lease is not None
    assert lease.request["seed"] == job.seed
    jobs.renew(lease.id, WorkReport(state="running", progress=JobProgress(fraction=0.5, phase="denoise")))
    assert jobs.get(ANNA, job.id).progress.fraction == 0.5
    finish(jobs, lease.id)
    done = jobs.get(ANNA, job.id)
    assert done.state == "succeeded"
    assert done.result is not None
    assert done.result.clip is not None
    assert jobs.asset_path(ANNA, done.result.clip.id).read_bytes() == b"clip"
    told = [(event.type, event.state) for event in jobs.events(ANNA, job.id, 0)]
    assert told == [
        ("state", "queued"), ("state", "loading"), ("state", "running"), ("progress", None),
        ("state", "succeeded"), ("result", "succeeded"),
    ]  # fmt: skip


def test_the_same_key_gives_the_same_job_and_other_words_a_conflict(jobs: Jobs) -> None:
    first = jobs.create(ANNA, asked(), idempotency_key="k1")
    assert jobs.create(ANNA, asked(), idempotency_key="k1").id == first.id
    assert jobs.create(BEN, asked(), idempotency_key="k1").id != first.id
    with pytest.raises(Conflict, match="another request"):
        jobs.create(ANNA, asked(steps=3), idempotency_key="k1")


def test_submissions_with_one_key_at_once_make_one_job(jobs: Jobs) -> None:
    jobs.plan(ANNA, asked())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: jobs.create(ANNA, asked(), idempotency_key="k").id, range(16)))
    assert len(set(made)) == 1
    assert len(jobs.list(ANNA).data) == 1


def test_a_claim_that_finds_no_job_wakes_nobody(jobs: Jobs) -> None:
    jobs.claim(WORKER)
    seen = jobs.news.version
    assert jobs.claim(WORKER) is None
    assert jobs.news.version == seen
    jobs.create(LOCAL, JobRequest(request=PROMPT))
    seen = jobs.news.version
    assert jobs.claim(WORKER) is not None
    assert jobs.news.version > seen


def test_claims_at_once_give_each_job_to_one_worker(jobs: Jobs) -> None:
    made = {jobs.create(owner, asked()).id for owner in (ANNA, BEN) for _ in range(4)}
    with ThreadPoolExecutor(8) as pool:
        infos = [WorkerInfo(id=f"w{n}", name="w") for n in range(12)]
        leases = [lease for lease in pool.map(jobs.claim, infos) if lease is not None]
    assert len(leases) == 8
    assert {lease.job.id for lease in leases} == made


def test_owners_take_turns_and_priority_goes_first(jobs: Jobs) -> None:
    order = [jobs.create(ANNA, asked()).id for _ in range(3)]
    ben = jobs.create(BEN, asked()).id
    urgent = jobs.create(ANNA, JobRequest(request=PROMPT, priority="high")).id
    expected = [urgent, ben, *order]
    places = {job.id: job.position for job in jobs.list(LOCAL).data}
    claimed = [lease.job.id for _ in expected if (lease := jobs.claim(WORKER)) is not None]
    assert claimed == expected
    assert sorted(places, key=lambda job_id: places[job_id] or 0) == expected


def test_a_warm_model_goes_first_but_not_forever(jobs: Jobs, clock: Clock) -> None:
    lora = jobs.create(ANNA, asked())
    lease = jobs.claim(WORKER)
    assert lease is not None
    cold, warm = jobs.create(ANNA, asked()).id, jobs.create(ANNA, asked()).id
    with jobs.store.writing() as db:
        db.execute(tables.jobs.update().where(tables.jobs.c.id == cold).values(affinity="other"))
    loaded = WORKER.model_copy(update={"loaded": lease.affinity})
    with jobs.store.writing() as db:  # look at the order without changing it
        first = jobs._claimed(db, loaded, clock())
        assert first is not None
        assert first.id == warm
        jobs.requeue(db, first)
    clock.now += jobs.limits.affinity_s + 1
    found = jobs.claim(loaded)
    assert found is not None
    assert found.job.id == cold
    assert lora.id != cold


def test_a_lost_worker_costs_one_try_and_a_restart_none(jobs: Jobs, clock: Clock) -> None:
    job = jobs.create(ANNA, asked())
    for _ in range(3):  # restarts of the server
        assert jobs.claim(WORKER) is not None
        jobs.recover()
        clock.now += 60
        jobs.sweep()
        assert jobs.get(ANNA, job.id).state == "queued"
    for state in ("queued", "failed"):  # deaths of the worker
        assert jobs.claim(WORKER) is not None
        clock.now += 60
        jobs.sweep()
        assert jobs.get(ANNA, job.id).state == state
    failed = jobs.get(ANNA, job.id)
    assert failed.error is not None
    assert failed.error.code == "worker_lost"
    states = [event.state for event in jobs.events(ANNA, job.id, 0) if event.type == "state"]
    assert states.count("interrupted") == 5


def test_a_worker_that_dies_after_checkpoints_is_never_the_last(jobs: Jobs, clock: Clock) -> None:
    job = jobs.create(ANNA, asked())
    for _ in range(4):
        assert jobs.claim(WORKER) is not None
        folder = jobs.checkpoint_folder(job.id)
        folder.mkdir(exist_ok=True)
        (folder / "state.safetensors").write_bytes(b"state")
        clock.now += 60
        jobs.sweep()
        assert jobs.get(ANNA, job.id).state == "queued"


def test_only_the_worker_with_the_lease_finishes_and_twice_is_once(jobs: Jobs, clock: Clock) -> None:
    job = jobs.create(ANNA, asked())
    first = jobs.claim(WORKER)
    assert first is not None
    clock.now += 60
    jobs.sweep()
    second = jobs.claim(WorkerInfo(id="w2", name="two"))
    assert second is not None
    with pytest.raises(LeaseLost):
        jobs.renew(first.id, WorkReport())
    with pytest.raises(LeaseLost):
        finish(jobs, first.id, b"of the first")
    finish(jobs, second.id, b"of the second")
    jobs.finish(second.id, MadeFiles())
    done = jobs.get(ANNA, job.id)
    assert done.result is not None
    assert done.result.clip is not None
    assert jobs.asset_path(ANNA, done.result.clip.id).read_bytes() == b"of the second"
    assert len(list((jobs.data / "assets").glob("*/*"))) == 1


def test_a_job_is_cancelled_deleted_and_gone(jobs: Jobs) -> None:
    waiting, working = jobs.create(ANNA, asked()), jobs.create(ANNA, asked())
    assert jobs.cancel(ANNA, waiting.id).state == "cancelled"
    lease = jobs.claim(WORKER)
    assert lease is not None
    jobs.cancel(ANNA, working.id)
    with pytest.raises(Conflict, match="cancel it first"):
        jobs.delete(ANNA, working.id)
    assert jobs.renew(lease.id, WorkReport()).cancel
    finish(jobs, lease.id)  # too late
    assert jobs.get(ANNA, working.id).state == "cancelled"
    assert not list((jobs.data / "assets").glob("*/*"))
    jobs.delete(ANNA, working.id)
    with pytest.raises(Gone):
        jobs.get(ANNA, working.id)
    with pytest.raises(NotFound):
        jobs.get(BEN, working.id)
    assert [job.id for job in jobs.list(ANNA).data] == [waiting.id]
    assert jobs.retry(ANNA, waiting.id).seed == waiting.seed


def test_a_cancelled_job_is_cancelled_in_time_even_if_its_worker_does_not_answer(
    jobs: Jobs, clock: Clock
) -> None:
    job = jobs.create(ANNA, asked())
    lease = jobs.claim(WORKER)
    assert lease is not None
    jobs.cancel(ANNA, job.id)
    for _ in range(
        4
    ):  # the worker reports on, in the middle of a long step; a second call gives no more time
        clock.now += jobs.limits.cancel_s / 5
        assert jobs.renew(lease.id, WorkReport()).cancel
        jobs.cancel(ANNA, job.id)
        jobs.sweep()
        assert jobs.get(ANNA, job.id).state == "loading"
    clock.now += jobs.limits.cancel_s / 4
    jobs.sweep()
    assert jobs.get(ANNA, job.id).state == "cancelled"
    with pytest.raises(LeaseLost):
        jobs.renew(lease.id, WorkReport())
    with pytest.raises(LeaseLost):
        finish(jobs, lease.id)
    assert not list((jobs.data / "assets").glob("*/*"))
    assert not list(jobs.tmp.iterdir())


def test_a_worker_of_this_machine_that_is_not_seen_any_more_is_silent(jobs: Jobs, clock: Clock) -> None:
    jobs.claim(WORKER.model_copy(update={"local": True}))
    jobs.claim(WorkerInfo(id="far", name="far"))
    assert jobs.silent_workers() == []
    clock.now += jobs.limits.silent_s + 1
    assert jobs.silent_workers() == ["w1"]


def test_a_paused_job_waits_until_it_is_resumed(jobs: Jobs) -> None:
    first, second = jobs.create(ANNA, asked()), jobs.create(ANNA, asked())
    assert jobs.pause(ANNA, first.id).state == "paused"
    assert jobs.pause(ANNA, first.id).position is None
    lease = jobs.claim(WORKER)
    assert lease is not None
    assert lease.job.id == second.id
    jobs.pause(ANNA, second.id)
    assert jobs.renew(lease.id, WorkReport()).drain
    assert jobs.release(lease.id).state == "paused"
    assert jobs.claim(WORKER) is None
    assert jobs.resume(ANNA, first.id).state == "queued"
    jobs.resume(ANNA, second.id)
    jobs.resume(ANNA, second.id)
    again = [jobs.claim(WORKER) for _ in range(2)]
    assert [lease and lease.job.id for lease in again] == [first.id, second.id]
    jobs.pause(ANNA, first.id)
    jobs.resume(ANNA, first.id)  # before the worker heard of it
    assert again[0] is not None
    assert not jobs.renew(again[0].id, WorkReport()).drain
    jobs.cancel(ANNA, first.id)
    with pytest.raises(Conflict, match="being cancelled"):
        jobs.pause(ANNA, first.id)
    with pytest.raises(NotFound):
        jobs.pause(BEN, second.id)


def test_a_paused_job_whose_worker_is_lost_stays_paused_and_counts_as_waiting(
    jobs: Jobs, clock: Clock
) -> None:
    made = [jobs.create(ANNA, asked()) for _ in range(5)]
    assert jobs.claim(WORKER) is not None
    for job in made:
        jobs.pause(ANNA, job.id)
    clock.now += 60
    jobs.sweep()
    assert [job.state for job in jobs.list(ANNA).data] == ["paused"] * 5
    with pytest.raises(TooMany, match="of your jobs wait"):
        jobs.create(ANNA, asked())
    assert jobs.cancel(ANNA, made[0].id).state == "cancelled"
    with pytest.raises(Conflict, match="has ended already: cancelled"):
        jobs.resume(ANNA, made[0].id)


def test_queues_and_quotas_are_limited(jobs: Jobs, clock: Clock) -> None:
    for _ in range(5):
        jobs.create(ANNA, asked())
    with pytest.raises(TooMany, match="of your jobs wait") as full:
        jobs.create(ANNA, asked())
    assert full.value.retry_after_s > 0
    jobs.limits = Limits(quota_s=20.0, quota_window_s=1000.0)
    lease = jobs.claim(WORKER)
    assert lease is not None
    clock.now += 19
    finish(jobs, lease.id)
    with pytest.raises(TooMany, match="of 20 s"):
        jobs.create(ANNA, asked())
    jobs.create(BEN, asked())
    clock.now += 2000
    for job in jobs.list(ANNA, state="queued").data:
        jobs.cancel(ANNA, job.id)
    jobs.create(ANNA, asked())


def test_the_next_job_of_a_shape_is_expected_to_take_as_long(jobs: Jobs) -> None:
    jobs.create(ANNA, asked())
    lease = jobs.claim(WORKER)
    assert lease is not None
    finish(jobs, lease.id)  # tells of 2 seconds
    same, other = jobs.plan(ANNA, asked()), jobs.plan(ANNA, asked(steps=3))
    assert same.seconds == 2.0
    assert other.seconds is not None
    assert 0 < other.seconds < 2.0


def test_what_is_old_is_deleted_with_its_files(jobs: Jobs, clock: Clock) -> None:
    job = jobs.create(ANNA, asked())
    lease = jobs.claim(WORKER)
    assert lease is not None
    finish(jobs, lease.id)
    stray = jobs.data / "assets" / "zz" / "stray.mp4"
    stray.parent.mkdir()
    stray.write_bytes(b"half")
    os.utime(stray, (0, 0))
    jobs.recover()
    assert not stray.exists()
    clock.now += 31 * 86_400
    jobs.sweep()
    with pytest.raises(Gone):
        jobs.get(ANNA, job.id)
    assert not list((jobs.data / "assets").glob("*/*"))
    clock.now += 8 * 86_400
    jobs.sweep()
    with pytest.raises(NotFound):
        jobs.get(ANNA, job.id)


def test_files_together_stay_within_their_bytes(jobs: Jobs) -> None:
    made = []
    for number in range(3):
        made.append(jobs.create(ANNA, asked()).id)
        lease = jobs.claim(WORKER)
        assert lease is not None
        finish(jobs, lease.id, bytes([number]) * 100)
    jobs.limits = Limits(keep_bytes=250)
    jobs.sweep()
    assert [job.id for job in jobs.list(ANNA, order="asc").data] == made[1:]


def test_webhooks_are_written_with_the_end_and_sent_once(jobs: Jobs, clock: Clock) -> None:
    job = jobs.create(ANNA, JobRequest(request=PROMPT, webhook_url="https://example.org/hook"))
    assert jobs.due_deliveries() == []
    jobs.cancel(ANNA, job.id)
    (due,) = jobs.due_deliveries()
    assert '"state": "cancelled"' in due.body
    assert jobs.due_deliveries() == []
    jobs.delivered(due.id, status=500, error="it answered 500", retry_at=clock.now + 30)
    clock.now += 31
    (again,) = jobs.due_deliveries()
    assert again.attempt == 2
    jobs.delivered(again.id, status=200, error=None, retry_at=None)
    clock.now += 1000
    assert jobs.due_deliveries() == []
    assert jobs.deliveries(ANNA).data[0].state == "delivered"
    assert jobs.redeliver(ANNA, due.id).state == "pending"


def test_keys_are_known_by_their_secret_until_revoked(jobs: Jobs) -> None:
    assert not jobs.has_keys()
    key_id, secret = jobs.create_key("anna", ["read", "submit"], "laptop")
    owner = jobs.owner_of(secret)
    assert owner is not None
    assert (owner.id, owner.may("submit"), owner.may("admin")) == ("anna", True, False)
    assert jobs.owner_of(secret[:-1]) is None
    with jobs.store.reading() as db:
        assert secret not in str(db.execute(tables.api_keys.select()).all())
    jobs.revoke_key(owner, key_id)
    assert jobs.owner_of(secret) is None
    with pytest.raises(RequestError, match="scopes"):
        jobs.create_key("anna", ["all"], "x")  # type: ignore[list-item]


def test_lists_go_on_after_a_job_and_find_words(jobs: Jobs) -> None:
    made = [jobs.create(ANNA, asked(prompt=f"Ball {n} at 100% speed")).id for n in range(4)]
    first = jobs.list(ANNA, limit=3)
    assert ([job.id for job in first.data], first.has_more) == (made[:0:-1], True)
    rest = jobs.list(ANNA, limit=3, after=first.last_id)
    assert ([job.id for job in rest.data], rest.has_more) == (made[:1], False)
    assert [job.id for job in jobs.list(ANNA, text="BALL 2").data] == [made[2]]
    assert len(jobs.list(ANNA, text="100%").data) == 4
    assert jobs.list(ANNA, text="100_").data == []
    assert jobs.list(BEN).data == []


def test_what_no_server_takes_is_refused_in_a_sentence(jobs: Jobs) -> None:
    wrong = [
        ({"guides": ["/etc/passwd"]}, r"guides\[0\].image is '/etc/passwd'"),
        ({"guides": ["asset:as_none"]}, "there is no such file"),
        ({"guides": ["https://example.org/a.png"]}, 'give "asset:ID"'),
        ({"loras": ["lora:style:0.5"]}, "no LoRA of that name"),
        ({"recipe": "/tmp/own.yaml"}, "a server takes no file"),
        ({"take": {"folder": "/tmp/take"}}, "a server takes none"),
        ({"colour": "red"}, "colour"),
    ]
    for fields, told in wrong:
        with pytest.raises(RequestError, match=told):
            jobs.create(ANNA, asked(**fields))
    with pytest.raises(RequestError, match="format is 'exe'"):
        jobs.create(ANNA, JobRequest(request=PROMPT, format="exe"))
    with pytest.raises(RequestError, match="model is 'big'"):
        jobs.create(ANNA, JobRequest(request=PROMPT, model="big"))


def test_a_registered_lora_tells_what_its_header_says_and_keeps_its_place_without_a_file(jobs: Jobs) -> None:
    module = "diffusion_model.transformer_blocks.0.attn1.to_v"
    pair = {f"{module}.lora_A.weight": torch.ones(4, 8), f"{module}.lora_B.weight": torch.ones(8, 4)}
    told = {"trigger_phrase": "ohwx", "reference_downscale_factor": "2"}
    save_file(pair, jobs.tmp / "style.safetensors", told)
    file = jobs.add_asset(
        LOCAL,
        path=jobs.tmp / "style.safetensors",
        kind="lora",
        name="style.safetensors",
        media_type="application/vnd.safetensors",
    )
    report = jobs.add_lora(LOCAL, "style", file.id)["report"]
    assert (report["trigger"], report["downscale"], report["rank"]) == ("ohwx", 2, 4)
    assert report["published"] is None
    jobs.asset_path(LOCAL, file.id).unlink()
    assert [(lora["name"], lora["report"]) for lora in jobs.loras(LOCAL)] == [("style", None)]


def test_the_store_and_its_migrations_agree(jobs: Jobs) -> None:
    with jobs.store.reading() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []
