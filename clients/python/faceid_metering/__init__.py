"""The Python client of FaceID Metering.

    async with MeteringClient("127.0.0.1:50051") as metering:
        await metering.record_call(account_id, "DetectAuth", request_id)
        usage = await metering.get_monthly_usage(account_id, "2026-11")

Messages such as `PricePlan` are those of the contract, `faceid.metering.v1`.
"""

from faceid_metering.client import MeteringClient
from faceid_metering.config import ClientConfig, Durability, SpoolFull, WhenLost, WhenUnknown
from faceid_metering.credentials import tls_credentials
from faceid_metering.errors import MeteringError
from faceid_metering.money import to_decimal, to_money
from faceid_metering.runtime import Runtime
from faceid_metering.stats import ClientStats
from faceid_metering.sync import SyncMeteringClient

__all__ = [
    "ClientConfig",
    "ClientStats",
    "Durability",
    "MeteringClient",
    "MeteringError",
    "Runtime",
    "SpoolFull",
    "SyncMeteringClient",
    "WhenLost",
    "WhenUnknown",
    "tls_credentials",
    "to_decimal",
    "to_money",
]
