import pytest
from prometheus_client import CollectorRegistry

from faceid_metering import ClientStats
from faceid_metering.prometheus import ClientCollector


class Client:
    def __init__(self) -> None:
        self.asked = 0
        self.counts = ClientStats()

    def stats(self) -> ClientStats:
        self.asked += 1
        return self.counts


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_counts_stand_on_the_users_registry_as_they_are_when_it_is_read(registry: CollectorRegistry) -> None:
    client = Client()
    registry.register(ClientCollector(client))
    assert client.asked == 0
    client.counts.delivered_calls = 7
    client.counts.dropped("full", 3)
    client.counts.failed_batches["UNAVAILABLE"] += 2
    client.counts.spool_oldest_s = 1.5
    client.counts.service_up = False

    assert registry.get_sample_value("metering_client_delivered_calls_total") == 7
    assert registry.get_sample_value("metering_client_dropped_calls_total", {"reason": "full"}) == 3
    assert registry.get_sample_value("metering_client_failed_batches_total", {"reason": "UNAVAILABLE"}) == 2
    assert registry.get_sample_value("metering_client_spool_oldest_seconds") == 1.5
    assert registry.get_sample_value("metering_client_service_up") == 0


def test_every_count_of_a_client_has_its_metric(registry: CollectorRegistry) -> None:
    registry.register(ClientCollector(Client()))
    names = {metric.name.removeprefix("metering_client_") for metric in registry.collect()}
    counts = {name.removesuffix("_s") for name in vars(ClientStats()) if not name.startswith("_")}
    assert {name.removesuffix("_seconds") for name in names} == counts


def test_several_clients_of_a_process_are_told_apart(registry: CollectorRegistry) -> None:
    first, second = Client(), Client()
    first.counts.delivered_calls, second.counts.delivered_calls = 1, 2
    second.counts.status_answers["denied"] = 3
    registry.register(ClientCollector({"first": first, "second": second}))

    assert registry.get_sample_value("metering_client_delivered_calls_total", {"client": "first"}) == 1
    assert registry.get_sample_value("metering_client_delivered_calls_total", {"client": "second"}) == 2
    answers = {"client": "second", "answer": "denied"}
    assert registry.get_sample_value("metering_client_status_answers_total", answers) == 3
