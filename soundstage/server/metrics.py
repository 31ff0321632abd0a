"""Metrics for Prometheus: what the jobs are doing, read when they are asked for, and calls by address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from soundstage.jobs.service import Jobs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Calls:
    """Counts calls by address and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._count = Counter(
            "soundstage_http_calls", "Calls.", ("method", "path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "soundstage_http_seconds",
            "Seconds of a call.",
            ("path",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a call. path: the pattern of the address, so that there are few of them."""
        self._count.labels(method if method in METHODS else "other", path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)


class JobsCollector:
    """Gives what the store knows at the moment when metrics are read."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield the families of metrics."""
        stats = self._jobs.stats()
        yield _gauges("soundstage_jobs", "Jobs by state.", "state", stats["states"])
        yield _gauge("soundstage_queue_depth", "Jobs that wait.", stats["queue_depth"])
        yield _gauge(
            "soundstage_oldest_queued_seconds", "Age of the oldest that waits.", stats["oldest_queued_s"]
        )
        yield _counters("soundstage_failures", "Failed jobs by code.", "code", stats["failures"])
        yield _counters(
            "soundstage_stage_seconds", "Seconds of work by stage.", "stage", stats["stage_seconds"]
        )
        yield _gauges("soundstage_workers", "Workers by state.", "state", stats["workers"])


def exposition(jobs: Jobs, calls: Calls) -> bytes:
    """Return all metrics in Prometheus' text form."""
    registry = CollectorRegistry()
    registry.register(JobsCollector(jobs))  # type: ignore[arg-type]
    return generate_latest(registry) + generate_latest(calls.registry)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _gauges(name: str, help: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counters(name: str, help: str, label: str, values: dict[str, Any]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
