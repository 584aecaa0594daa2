import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RejectedCallState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECTED_CALL_STATE_UNSPECIFIED: _ClassVar[RejectedCallState]
    REJECTED_CALL_STATE_REJECTED: _ClassVar[RejectedCallState]
    REJECTED_CALL_STATE_RECORDED: _ClassVar[RejectedCallState]

class ServiceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVICE_STATE_UNSPECIFIED: _ClassVar[ServiceState]
    SERVICE_STATE_ACTIVE: _ClassVar[ServiceState]
    SERVICE_STATE_SUSPENDED: _ClassVar[ServiceState]

class MonthState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MONTH_STATE_UNSPECIFIED: _ClassVar[MonthState]
    MONTH_STATE_OPEN: _ClassVar[MonthState]
    MONTH_STATE_CLOSED: _ClassVar[MonthState]

class BillState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BILL_STATE_UNSPECIFIED: _ClassVar[BillState]
    BILL_STATE_ISSUED: _ClassVar[BillState]
    BILL_STATE_PAID: _ClassVar[BillState]
    BILL_STATE_OVERDUE: _ClassVar[BillState]
REJECTED_CALL_STATE_UNSPECIFIED: RejectedCallState
REJECTED_CALL_STATE_REJECTED: RejectedCallState
REJECTED_CALL_STATE_RECORDED: RejectedCallState
SERVICE_STATE_UNSPECIFIED: ServiceState
SERVICE_STATE_ACTIVE: ServiceState
SERVICE_STATE_SUSPENDED: ServiceState
MONTH_STATE_UNSPECIFIED: MonthState
MONTH_STATE_OPEN: MonthState
MONTH_STATE_CLOSED: MonthState
BILL_STATE_UNSPECIFIED: BillState
BILL_STATE_ISSUED: BillState
BILL_STATE_PAID: BillState
BILL_STATE_OVERDUE: BillState

class CallRecord(_message.Message):
    __slots__ = ("account_id", "api", "call_id", "occurred_at", "result_code")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    API_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    RESULT_CODE_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    api: str
    call_id: str
    occurred_at: _timestamp_pb2.Timestamp
    result_code: str
    def __init__(self, account_id: _Optional[str] = ..., api: _Optional[str] = ..., call_id: _Optional[str] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result_code: _Optional[str] = ...) -> None: ...

class RecordedCall(_message.Message):
    __slots__ = ("call", "billing_month", "occurred_on", "recorded_at")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BILLING_MONTH_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_ON_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    call: CallRecord
    billing_month: str
    occurred_on: str
    recorded_at: _timestamp_pb2.Timestamp
    def __init__(self, call: _Optional[_Union[CallRecord, _Mapping]] = ..., billing_month: _Optional[str] = ..., occurred_on: _Optional[str] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RejectedCall(_message.Message):
    __slots__ = ("call", "reason", "message", "rejected_at", "state", "retried_at", "billing_month")
    CALL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REJECTED_AT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RETRIED_AT_FIELD_NUMBER: _ClassVar[int]
    BILLING_MONTH_FIELD_NUMBER: _ClassVar[int]
    call: CallRecord
    reason: str
    message: str
    rejected_at: _timestamp_pb2.Timestamp
    state: RejectedCallState
    retried_at: _timestamp_pb2.Timestamp
    billing_month: str
    def __init__(self, call: _Optional[_Union[CallRecord, _Mapping]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., rejected_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[RejectedCallState, str]] = ..., retried_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., billing_month: _Optional[str] = ...) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("account_id", "state", "reason", "outstanding", "version", "age")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    state: ServiceState
    reason: str
    outstanding: _money_pb2.Money
    version: int
    age: _duration_pb2.Duration
    def __init__(self, account_id: _Optional[str] = ..., state: _Optional[_Union[ServiceState, str]] = ..., reason: _Optional[str] = ..., outstanding: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., version: _Optional[int] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DailyUsage(_message.Message):
    __slots__ = ("day", "calls")
    DAY_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    day: str
    calls: int
    def __init__(self, day: _Optional[str] = ..., calls: _Optional[int] = ...) -> None: ...

class ApiUsage(_message.Message):
    __slots__ = ("api", "calls", "charged_calls", "days")
    API_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_CALLS_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    api: str
    calls: int
    charged_calls: int
    days: _containers.RepeatedCompositeFieldContainer[DailyUsage]
    def __init__(self, api: _Optional[str] = ..., calls: _Optional[int] = ..., charged_calls: _Optional[int] = ..., days: _Optional[_Iterable[_Union[DailyUsage, _Mapping]]] = ...) -> None: ...

class MonthlyUsage(_message.Message):
    __slots__ = ("account_id", "month", "state", "total_calls", "charged_calls", "carried_calls", "apis", "charges", "unrated_apis")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_CALLS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_CALLS_FIELD_NUMBER: _ClassVar[int]
    CARRIED_CALLS_FIELD_NUMBER: _ClassVar[int]
    APIS_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    UNRATED_APIS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    month: str
    state: MonthState
    total_calls: int
    charged_calls: int
    carried_calls: int
    apis: _containers.RepeatedCompositeFieldContainer[ApiUsage]
    charges: _money_pb2.Money
    unrated_apis: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, account_id: _Optional[str] = ..., month: _Optional[str] = ..., state: _Optional[_Union[MonthState, str]] = ..., total_calls: _Optional[int] = ..., charged_calls: _Optional[int] = ..., carried_calls: _Optional[int] = ..., apis: _Optional[_Iterable[_Union[ApiUsage, _Mapping]]] = ..., charges: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., unrated_apis: _Optional[_Iterable[str]] = ...) -> None: ...

class PricePlan(_message.Message):
    __slots__ = ("price_plan_id", "version", "currency", "prices")
    PRICE_PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    price_plan_id: str
    version: int
    currency: str
    prices: _containers.RepeatedCompositeFieldContainer[ApiPrice]
    def __init__(self, price_plan_id: _Optional[str] = ..., version: _Optional[int] = ..., currency: _Optional[str] = ..., prices: _Optional[_Iterable[_Union[ApiPrice, _Mapping]]] = ...) -> None: ...

class ApiPrice(_message.Message):
    __slots__ = ("api", "per_call", "graduated", "volume", "free_calls", "uncharged_result_codes")
    API_FIELD_NUMBER: _ClassVar[int]
    PER_CALL_FIELD_NUMBER: _ClassVar[int]
    GRADUATED_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    FREE_CALLS_FIELD_NUMBER: _ClassVar[int]
    UNCHARGED_RESULT_CODES_FIELD_NUMBER: _ClassVar[int]
    api: str
    per_call: PerCallPrice
    graduated: TieredPrice
    volume: TieredPrice
    free_calls: int
    uncharged_result_codes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, api: _Optional[str] = ..., per_call: _Optional[_Union[PerCallPrice, _Mapping]] = ..., graduated: _Optional[_Union[TieredPrice, _Mapping]] = ..., volume: _Optional[_Union[TieredPrice, _Mapping]] = ..., free_calls: _Optional[int] = ..., uncharged_result_codes: _Optional[_Iterable[str]] = ...) -> None: ...

class PerCallPrice(_message.Message):
    __slots__ = ("unit_price",)
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    unit_price: str
    def __init__(self, unit_price: _Optional[str] = ...) -> None: ...

class TieredPrice(_message.Message):
    __slots__ = ("tiers",)
    TIERS_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[Tier]
    def __init__(self, tiers: _Optional[_Iterable[_Union[Tier, _Mapping]]] = ...) -> None: ...

class Tier(_message.Message):
    __slots__ = ("up_to", "unit_price")
    UP_TO_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    up_to: int
    unit_price: str
    def __init__(self, up_to: _Optional[int] = ..., unit_price: _Optional[str] = ...) -> None: ...

class Bill(_message.Message):
    __slots__ = ("account_id", "month", "state", "total", "deducted", "outstanding", "issued_at", "due_date", "lines", "calls_digest")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DEDUCTED_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    DUE_DATE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    CALLS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    month: str
    state: BillState
    total: _money_pb2.Money
    deducted: _money_pb2.Money
    outstanding: _money_pb2.Money
    issued_at: _timestamp_pb2.Timestamp
    due_date: str
    lines: _containers.RepeatedCompositeFieldContainer[BillLine]
    calls_digest: str
    def __init__(self, account_id: _Optional[str] = ..., month: _Optional[str] = ..., state: _Optional[_Union[BillState, str]] = ..., total: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., deducted: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., outstanding: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., issued_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., due_date: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[BillLine, _Mapping]]] = ..., calls_digest: _Optional[str] = ...) -> None: ...

class BillLine(_message.Message):
    __slots__ = ("api", "occurred_month", "calls", "charged_calls", "parts", "exact_amount", "amount", "price_plan_id", "price_plan_version")
    API_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_MONTH_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_CALLS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    EXACT_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    PRICE_PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    PRICE_PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    api: str
    occurred_month: str
    calls: int
    charged_calls: int
    parts: _containers.RepeatedCompositeFieldContainer[BillLinePart]
    exact_amount: str
    amount: _money_pb2.Money
    price_plan_id: str
    price_plan_version: int
    def __init__(self, api: _Optional[str] = ..., occurred_month: _Optional[str] = ..., calls: _Optional[int] = ..., charged_calls: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[BillLinePart, _Mapping]]] = ..., exact_amount: _Optional[str] = ..., amount: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., price_plan_id: _Optional[str] = ..., price_plan_version: _Optional[int] = ...) -> None: ...

class BillLinePart(_message.Message):
    __slots__ = ("quantity", "unit_price", "tier_from", "tier_up_to", "exact_amount")
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    TIER_FROM_FIELD_NUMBER: _ClassVar[int]
    TIER_UP_TO_FIELD_NUMBER: _ClassVar[int]
    EXACT_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    quantity: int
    unit_price: str
    tier_from: int
    tier_up_to: int
    exact_amount: str
    def __init__(self, quantity: _Optional[int] = ..., unit_price: _Optional[str] = ..., tier_from: _Optional[int] = ..., tier_up_to: _Optional[int] = ..., exact_amount: _Optional[str] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("account_id", "currency", "balance", "activated_at", "service_status", "price_plans")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_AT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_STATUS_FIELD_NUMBER: _ClassVar[int]
    PRICE_PLANS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    currency: str
    balance: _money_pb2.Money
    activated_at: _timestamp_pb2.Timestamp
    service_status: ServiceStatus
    price_plans: _containers.RepeatedCompositeFieldContainer[PricePlanAssignment]
    def __init__(self, account_id: _Optional[str] = ..., currency: _Optional[str] = ..., balance: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., activated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., service_status: _Optional[_Union[ServiceStatus, _Mapping]] = ..., price_plans: _Optional[_Iterable[_Union[PricePlanAssignment, _Mapping]]] = ...) -> None: ...

class PricePlanAssignment(_message.Message):
    __slots__ = ("price_plan_id", "from_month")
    PRICE_PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_MONTH_FIELD_NUMBER: _ClassVar[int]
    price_plan_id: str
    from_month: str
    def __init__(self, price_plan_id: _Optional[str] = ..., from_month: _Optional[str] = ...) -> None: ...

class MonthlyRun(_message.Message):
    __slots__ = ("run_id", "run_on", "replica", "started_at", "finished_at", "months", "bills_issued", "issued", "bills_paid", "deducted", "accounts_suspended", "accounts_unrated", "failures", "failed")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ON_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    MONTHS_FIELD_NUMBER: _ClassVar[int]
    BILLS_ISSUED_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    BILLS_PAID_FIELD_NUMBER: _ClassVar[int]
    DEDUCTED_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_UNRATED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    run_on: str
    replica: str
    started_at: _timestamp_pb2.Timestamp
    finished_at: _timestamp_pb2.Timestamp
    months: _containers.RepeatedScalarFieldContainer[str]
    bills_issued: int
    issued: _containers.RepeatedCompositeFieldContainer[_money_pb2.Money]
    bills_paid: int
    deducted: _containers.RepeatedCompositeFieldContainer[_money_pb2.Money]
    accounts_suspended: int
    accounts_unrated: int
    failures: int
    failed: _containers.RepeatedCompositeFieldContainer[MonthlyRunFailure]
    def __init__(self, run_id: _Optional[int] = ..., run_on: _Optional[str] = ..., replica: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., months: _Optional[_Iterable[str]] = ..., bills_issued: _Optional[int] = ..., issued: _Optional[_Iterable[_Union[_money_pb2.Money, _Mapping]]] = ..., bills_paid: _Optional[int] = ..., deducted: _Optional[_Iterable[_Union[_money_pb2.Money, _Mapping]]] = ..., accounts_suspended: _Optional[int] = ..., accounts_unrated: _Optional[int] = ..., failures: _Optional[int] = ..., failed: _Optional[_Iterable[_Union[MonthlyRunFailure, _Mapping]]] = ...) -> None: ...

class MonthlyRunFailure(_message.Message):
    __slots__ = ("month", "account_id", "message")
    MONTH_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    month: str
    account_id: str
    message: str
    def __init__(self, month: _Optional[str] = ..., account_id: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
