"""The messages of the contract that users of the client meet, in one place."""

from google.type.money_pb2 import Money

from faceid.metering.v1.account_service_pb2 import RecordPaymentResponse
from faceid.metering.v1.metering_service_pb2 import (
    BatchRecordCallsResponse,
    CloseMonthResponse,
    DeductResponse,
    RecordCallResponse,
    Rejection,
)
from faceid.metering.v1.resources_pb2 import (
    Account,
    ApiPrice,
    ApiUsage,
    Bill,
    BillLine,
    BillLinePart,
    BillState,
    CallRecord,
    DailyUsage,
    MonthlyUsage,
    MonthState,
    PerCallPrice,
    PricePlan,
    PricePlanAssignment,
    RecordedCall,
    RejectedCall,
    ServiceState,
    ServiceStatus,
    Tier,
    TieredPrice,
)

__all__ = [
    "Account",
    "ApiPrice",
    "ApiUsage",
    "BatchRecordCallsResponse",
    "Bill",
    "BillLine",
    "BillLinePart",
    "BillState",
    "CallRecord",
    "CloseMonthResponse",
    "DailyUsage",
    "DeductResponse",
    "Money",
    "MonthState",
    "MonthlyUsage",
    "PerCallPrice",
    "PricePlan",
    "PricePlanAssignment",
    "RecordCallResponse",
    "RecordPaymentResponse",
    "RecordedCall",
    "RejectedCall",
    "Rejection",
    "ServiceState",
    "ServiceStatus",
    "Tier",
    "TieredPrice",
]
