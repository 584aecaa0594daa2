from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_OCCURRED_AT_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_RECORDS: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_PRICE_PLAN_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_BILL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNT_ALREADY_ACTIVATED: _ClassVar[ErrorReason]
    ERROR_REASON_PAYMENT_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_MONTH_NOT_ENDED: _ClassVar[ErrorReason]
    ERROR_REASON_MONTH_ALREADY_BILLED: _ClassVar[ErrorReason]
    ERROR_REASON_CURRENCY_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_DATABASE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_UNRECORDABLE: _ClassVar[ErrorReason]
    ERROR_REASON_MONTHLY_RUN_UNDER_WAY: _ClassVar[ErrorReason]
    ERROR_REASON_CALLS_DROPPED: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_OCCURRED_AT_OUT_OF_RANGE: ErrorReason
ERROR_REASON_TOO_MANY_RECORDS: ErrorReason
ERROR_REASON_ACCOUNT_NOT_FOUND: ErrorReason
ERROR_REASON_PRICE_PLAN_NOT_FOUND: ErrorReason
ERROR_REASON_BILL_NOT_FOUND: ErrorReason
ERROR_REASON_ACCOUNT_ALREADY_ACTIVATED: ErrorReason
ERROR_REASON_PAYMENT_ID_REUSED: ErrorReason
ERROR_REASON_MONTH_NOT_ENDED: ErrorReason
ERROR_REASON_MONTH_ALREADY_BILLED: ErrorReason
ERROR_REASON_CURRENCY_MISMATCH: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_DATABASE_UNAVAILABLE: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_UNRECORDABLE: ErrorReason
ERROR_REASON_MONTHLY_RUN_UNDER_WAY: ErrorReason
ERROR_REASON_CALLS_DROPPED: ErrorReason
