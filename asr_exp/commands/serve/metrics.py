"""The metrics of a server, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)  # seconds
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)  # recordings


class Metrics:
    """The metrics of one server, in a registry of their own: several servers may run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "asr_exp_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "asr_exp_request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "asr_exp_requests_under_way",
            "Recordings being sent, waiting or being recognised.",
            registry=self.registry,
        )
        self.disconnects = Counter(
            "asr_exp_clients_vanished", "Clients gone before their answer.", registry=self.registry
        )
        self.audio_seconds = Counter("asr_exp_audio_seconds", "Audio recognised.", registry=self.registry)
        self.busy_seconds = Counter(
            "asr_exp_busy_seconds", "Time the model was at work.", registry=self.registry
        )
        self.batch_size = Histogram(
            "asr_exp_batch_clips",
            "Recordings recognised together.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.waiting_seconds = Gauge(
            "asr_exp_waiting_seconds", "Audio that waits for the model.", registry=self.registry
        )
        self.streams = Gauge("asr_exp_streams", "WebSocket sessions open.", registry=self.registry)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
