import datetime

from faceid.metering.v1 import resources_pb2 as _resources_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordCallRequest(_message.Message):
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

class RecordCallResponse(_message.Message):
    __slots__ = ("duplicate", "billing_month", "service_status")
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    BILLING_MONTH_FIELD_NUMBER: _ClassVar[int]
    SERVICE_STATUS_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    billing_month: str
    service_status: _resources_pb2.ServiceStatus
    def __init__(self, duplicate: bool = ..., billing_month: _Optional[str] = ..., service_status: _Optional[_Union[_resources_pb2.ServiceStatus, _Mapping]] = ...) -> None: ...

class BatchRecordCallsRequest(_message.Message):
    __slots__ = ("calls", "sender")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[_resources_pb2.CallRecord]
    sender: Sender
    def __init__(self, calls: _Optional[_Iterable[_Union[_resources_pb2.CallRecord, _Mapping]]] = ..., sender: _Optional[_Union[Sender, _Mapping]] = ...) -> None: ...

class Sender(_message.Message):
    __slots__ = ("sender_id", "first_number", "numbers", "closing")
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    sender_id: str
    first_number: int
    numbers: int
    closing: bool
    def __init__(self, sender_id: _Optional[str] = ..., first_number: _Optional[int] = ..., numbers: _Optional[int] = ..., closing: bool = ...) -> None: ...

class BatchRecordCallsResponse(_message.Message):
    __slots__ = ("accepted", "duplicates", "rejections", "not_active")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    NOT_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    duplicates: int
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    not_active: _containers.RepeatedCompositeFieldContainer[_resources_pb2.ServiceStatus]
    def __init__(self, accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., not_active: _Optional[_Iterable[_Union[_resources_pb2.ServiceStatus, _Mapping]]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("index", "call_id", "reason", "message")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    index: int
    call_id: str
    reason: str
    message: str
    def __init__(self, index: _Optional[int] = ..., call_id: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetMonthlyUsageRequest(_message.Message):
    __slots__ = ("account_id", "month")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    month: str
    def __init__(self, account_id: _Optional[str] = ..., month: _Optional[str] = ...) -> None: ...

class GetMonthlyUsageResponse(_message.Message):
    __slots__ = ("usage",)
    USAGE_FIELD_NUMBER: _ClassVar[int]
    usage: _resources_pb2.MonthlyUsage
    def __init__(self, usage: _Optional[_Union[_resources_pb2.MonthlyUsage, _Mapping]] = ...) -> None: ...

class CloseMonthRequest(_message.Message):
    __slots__ = ("month", "dry_run")
    MONTH_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    month: str
    dry_run: bool
    def __init__(self, month: _Optional[str] = ..., dry_run: bool = ...) -> None: ...

class CloseMonthResponse(_message.Message):
    __slots__ = ("bills_issued", "totals", "unrated_accounts", "already_closed")
    BILLS_ISSUED_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    UNRATED_ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    ALREADY_CLOSED_FIELD_NUMBER: _ClassVar[int]
    bills_issued: int
    totals: _containers.RepeatedCompositeFieldContainer[_money_pb2.Money]
    unrated_accounts: _containers.RepeatedScalarFieldContainer[str]
    already_closed: bool
    def __init__(self, bills_issued: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[_money_pb2.Money, _Mapping]]] = ..., unrated_accounts: _Optional[_Iterable[str]] = ..., already_closed: bool = ...) -> None: ...

class DeductRequest(_message.Message):
    __slots__ = ("account_id", "month")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    month: str
    def __init__(self, account_id: _Optional[str] = ..., month: _Optional[str] = ...) -> None: ...

class DeductResponse(_message.Message):
    __slots__ = ("bill", "deducted", "outstanding", "service_status")
    BILL_FIELD_NUMBER: _ClassVar[int]
    DEDUCTED_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    SERVICE_STATUS_FIELD_NUMBER: _ClassVar[int]
    bill: _resources_pb2.Bill
    deducted: _money_pb2.Money
    outstanding: _money_pb2.Money
    service_status: _resources_pb2.ServiceStatus
    def __init__(self, bill: _Optional[_Union[_resources_pb2.Bill, _Mapping]] = ..., deducted: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., outstanding: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., service_status: _Optional[_Union[_resources_pb2.ServiceStatus, _Mapping]] = ...) -> None: ...

class CheckServiceStatusRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class CheckServiceStatusResponse(_message.Message):
    __slots__ = ("service_status",)
    SERVICE_STATUS_FIELD_NUMBER: _ClassVar[int]
    service_status: _resources_pb2.ServiceStatus
    def __init__(self, service_status: _Optional[_Union[_resources_pb2.ServiceStatus, _Mapping]] = ...) -> None: ...

class WatchServiceStatusRequest(_message.Message):
    __slots__ = ("account_ids", "heartbeats", "changes_only")
    ACCOUNT_IDS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEATS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_ONLY_FIELD_NUMBER: _ClassVar[int]
    account_ids: _containers.RepeatedScalarFieldContainer[str]
    heartbeats: bool
    changes_only: bool
    def __init__(self, account_ids: _Optional[_Iterable[str]] = ..., heartbeats: bool = ..., changes_only: bool = ...) -> None: ...

class WatchServiceStatusResponse(_message.Message):
    __slots__ = ("service_status", "heartbeat_age")
    SERVICE_STATUS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_AGE_FIELD_NUMBER: _ClassVar[int]
    service_status: _resources_pb2.ServiceStatus
    heartbeat_age: _duration_pb2.Duration
    def __init__(self, service_status: _Optional[_Union[_resources_pb2.ServiceStatus, _Mapping]] = ..., heartbeat_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListCallsRequest(_message.Message):
    __slots__ = ("account_id", "month", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    month: str
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., month: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCallsResponse(_message.Message):
    __slots__ = ("call", "calls", "next_page_token")
    CALL_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    call: _resources_pb2.RecordedCall
    calls: _containers.RepeatedCompositeFieldContainer[_resources_pb2.RecordedCall]
    next_page_token: str
    def __init__(self, call: _Optional[_Union[_resources_pb2.RecordedCall, _Mapping]] = ..., calls: _Optional[_Iterable[_Union[_resources_pb2.RecordedCall, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
