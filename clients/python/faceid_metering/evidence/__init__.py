"""What a bill stands on: its calls in a file, and checking one against the other without a service.

    differences = verify_bill(bill, read_calls("calls.csv"))

The digest is defined in docs/billing.md.
"""

from faceid_metering.evidence.export import export_calls
from faceid_metering.evidence.files import CallFileError, read_calls, write_calls
from faceid_metering.evidence.verification import ListedCall, calls_digest, verify_bill

__all__ = ["CallFileError", "ListedCall", "calls_digest", "export_calls", "read_calls", "verify_bill", "write_calls"]
