import datetime

from faceid.metering.v1 import resources_pb2 as _resources_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActivateAccountRequest(_message.Message):
    __slots__ = ("account_id", "currency", "price_plan_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    PRICE_PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    currency: str
    price_plan_id: str
    def __init__(self, account_id: _Optional[str] = ..., currency: _Optional[str] = ..., price_plan_id: _Optional[str] = ...) -> None: ...

class ActivateAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: _resources_pb2.Account
    def __init__(self, account: _Optional[_Union[_resources_pb2.Account, _Mapping]] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: _resources_pb2.Account
    def __init__(self, account: _Optional[_Union[_resources_pb2.Account, _Mapping]] = ...) -> None: ...

class RecordPaymentRequest(_message.Message):
    __slots__ = ("account_id", "amount", "payment_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    amount: _money_pb2.Money
    payment_id: str
    def __init__(self, account_id: _Optional[str] = ..., amount: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., payment_id: _Optional[str] = ...) -> None: ...

class RecordPaymentResponse(_message.Message):
    __slots__ = ("duplicate", "account", "settled_bills")
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_BILLS_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    account: _resources_pb2.Account
    settled_bills: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Bill]
    def __init__(self, duplicate: bool = ..., account: _Optional[_Union[_resources_pb2.Account, _Mapping]] = ..., settled_bills: _Optional[_Iterable[_Union[_resources_pb2.Bill, _Mapping]]] = ...) -> None: ...

class PutPricePlanRequest(_message.Message):
    __slots__ = ("price_plan",)
    PRICE_PLAN_FIELD_NUMBER: _ClassVar[int]
    price_plan: _resources_pb2.PricePlan
    def __init__(self, price_plan: _Optional[_Union[_resources_pb2.PricePlan, _Mapping]] = ...) -> None: ...

class PutPricePlanResponse(_message.Message):
    __slots__ = ("price_plan",)
    PRICE_PLAN_FIELD_NUMBER: _ClassVar[int]
    price_plan: _resources_pb2.PricePlan
    def __init__(self, price_plan: _Optional[_Union[_resources_pb2.PricePlan, _Mapping]] = ...) -> None: ...

class GetPricePlanRequest(_message.Message):
    __slots__ = ("price_plan_id", "version", "account_id")
    PRICE_PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    price_plan_id: str
    version: int
    account_id: str
    def __init__(self, price_plan_id: _Optional[str] = ..., version: _Optional[int] = ..., account_id: _Optional[str] = ...) -> None: ...

class GetPricePlanResponse(_message.Message):
    __slots__ = ("price_plan",)
    PRICE_PLAN_FIELD_NUMBER: _ClassVar[int]
    price_plan: _resources_pb2.PricePlan
    def __init__(self, price_plan: _Optional[_Union[_resources_pb2.PricePlan, _Mapping]] = ...) -> None: ...

class ListPricePlansRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPricePlansResponse(_message.Message):
    __slots__ = ("price_plans", "next_page_token")
    PRICE_PLANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    price_plans: _containers.RepeatedCompositeFieldContainer[_resources_pb2.PricePlan]
    next_page_token: str
    def __init__(self, price_plans: _Optional[_Iterable[_Union[_resources_pb2.PricePlan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AssignPricePlanRequest(_message.Message):
    __slots__ = ("account_id", "price_plan_id", "from_month")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PRICE_PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_MONTH_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    price_plan_id: str
    from_month: str
    def __init__(self, account_id: _Optional[str] = ..., price_plan_id: _Optional[str] = ..., from_month: _Optional[str] = ...) -> None: ...

class AssignPricePlanResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: _resources_pb2.Account
    def __init__(self, account: _Optional[_Union[_resources_pb2.Account, _Mapping]] = ...) -> None: ...

class GetBillRequest(_message.Message):
    __slots__ = ("account_id", "month")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    month: str
    def __init__(self, account_id: _Optional[str] = ..., month: _Optional[str] = ...) -> None: ...

class GetBillResponse(_message.Message):
    __slots__ = ("bill",)
    BILL_FIELD_NUMBER: _ClassVar[int]
    bill: _resources_pb2.Bill
    def __init__(self, bill: _Optional[_Union[_resources_pb2.Bill, _Mapping]] = ...) -> None: ...

class ListBillsRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBillsResponse(_message.Message):
    __slots__ = ("bills", "next_page_token")
    BILLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bills: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Bill]
    next_page_token: str
    def __init__(self, bills: _Optional[_Iterable[_Union[_resources_pb2.Bill, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListRejectedCallsRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token", "state")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    state: _resources_pb2.RejectedCallState
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[_Union[_resources_pb2.RejectedCallState, str]] = ...) -> None: ...

class ListRejectedCallsResponse(_message.Message):
    __slots__ = ("rejected_calls", "next_page_token")
    REJECTED_CALLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rejected_calls: _containers.RepeatedCompositeFieldContainer[_resources_pb2.RejectedCall]
    next_page_token: str
    def __init__(self, rejected_calls: _Optional[_Iterable[_Union[_resources_pb2.RejectedCall, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RetryRejectedCallsRequest(_message.Message):
    __slots__ = ("account_id", "however_old")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    HOWEVER_OLD_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    however_old: bool
    def __init__(self, account_id: _Optional[str] = ..., however_old: bool = ...) -> None: ...

class RetryRejectedCallsResponse(_message.Message):
    __slots__ = ("recorded", "duplicates", "still_rejected")
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    STILL_REJECTED_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    duplicates: int
    still_rejected: int
    def __init__(self, recorded: _Optional[int] = ..., duplicates: _Optional[int] = ..., still_rejected: _Optional[int] = ...) -> None: ...

class RunMonthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunMonthResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _resources_pb2.MonthlyRun
    def __init__(self, run: _Optional[_Union[_resources_pb2.MonthlyRun, _Mapping]] = ...) -> None: ...

class PreviewRunMonthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PreviewRunMonthResponse(_message.Message):
    __slots__ = ("account_id", "bills", "unrated_months", "deducted", "outstanding", "suspends")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BILLS_FIELD_NUMBER: _ClassVar[int]
    UNRATED_MONTHS_FIELD_NUMBER: _ClassVar[int]
    DEDUCTED_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    SUSPENDS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    bills: _containers.RepeatedCompositeFieldContainer[_resources_pb2.Bill]
    unrated_months: _containers.RepeatedScalarFieldContainer[str]
    deducted: _money_pb2.Money
    outstanding: _money_pb2.Money
    suspends: bool
    def __init__(self, account_id: _Optional[str] = ..., bills: _Optional[_Iterable[_Union[_resources_pb2.Bill, _Mapping]]] = ..., unrated_months: _Optional[_Iterable[str]] = ..., deducted: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., outstanding: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., suspends: bool = ...) -> None: ...

class GetMonthRequest(_message.Message):
    __slots__ = ("month",)
    MONTH_FIELD_NUMBER: _ClassVar[int]
    month: str
    def __init__(self, month: _Optional[str] = ...) -> None: ...

class GetMonthResponse(_message.Message):
    __slots__ = ("state", "closed_at", "billed_at", "bills_issued", "accounts", "accounts_looked_at")
    STATE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_FIELD_NUMBER: _ClassVar[int]
    BILLED_AT_FIELD_NUMBER: _ClassVar[int]
    BILLS_ISSUED_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_LOOKED_AT_FIELD_NUMBER: _ClassVar[int]
    state: _resources_pb2.MonthState
    closed_at: _timestamp_pb2.Timestamp
    billed_at: _timestamp_pb2.Timestamp
    bills_issued: int
    accounts: int
    accounts_looked_at: int
    def __init__(self, state: _Optional[_Union[_resources_pb2.MonthState, str]] = ..., closed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., billed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., bills_issued: _Optional[int] = ..., accounts: _Optional[int] = ..., accounts_looked_at: _Optional[int] = ...) -> None: ...

class ListMonthlyRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMonthlyRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_resources_pb2.MonthlyRun]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[_resources_pb2.MonthlyRun, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
