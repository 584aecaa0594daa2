"""Changes to the books by hand: an account, what was done, and the kinds of differences that must be found of it."""

from metering.model import AuditKind

CALLS, USAGE, PLACES = AuditKind.CALLS, AuditKind.USAGE, AuditKind.PLACES
BILL_CALLS, BILL_MONTHS = AuditKind.BILL_CALLS, AuditKind.BILL_MONTHS
ISSUED, DIGESTS = AuditKind.ISSUED_BILLS, AuditKind.DIGESTS
LINES, RATING, BILLS = AuditKind.LINES, AuditKind.RATING, AuditKind.BILLS
ENTRIES, BALANCES, STATES = AuditKind.ENTRIES, AuditKind.BALANCES, AuditKind.STATES
PRICES, REJECTED = AuditKind.PRICES, AuditKind.REJECTED_CALLS

ONE_CALL = (
    "call_id = (SELECT min(call_id::text)::uuid FROM calls WHERE account_id = 'acme' AND occurred_on = '2026-10-15'"
    " AND billing_month = '2026-10-01')"
)
ONE_OPEN_CALL = (
    "call_id = (SELECT min(call_id::text)::uuid FROM calls WHERE account_id = 'zenith' AND occurred_on = '2026-11-23')"
)
ACME_OCTOBER = "account_id = 'acme' AND month = '2026-10-01'"
FREE_HANDS = [
    # Whoever tampers with the books as their owner can remove these, too.
    "ALTER TABLE bills DROP CONSTRAINT bills_paid_when_deducted, DROP CONSTRAINT bills_check",
    (
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind, DROP CONSTRAINT ledger_entries_payment_once,"
        " DROP CONSTRAINT ledger_entries_account_fkey, DROP CONSTRAINT ledger_entries_bill_fkey"
    ),
    "ALTER TABLE bill_lines DROP CONSTRAINT bill_lines_check",
    "ALTER TABLE bills DROP CONSTRAINT bills_account_fkey",
    "ALTER TABLE price_plan_assignments DROP CONSTRAINT price_plan_assignments_account_fkey",
]

TAMPERING: list[tuple[str, str, set[AuditKind]]] = [
    # calls
    ("acme", f"DELETE FROM calls WHERE {ONE_CALL}", {USAGE, PLACES}),
    (
        "acme",
        (
            "INSERT INTO calls SELECT occurred_at, recorded_at, occurred_on, billing_month, gen_random_uuid(),"
            f" account_id, api, result_code FROM calls WHERE {ONE_CALL}"
        ),
        {USAGE, PLACES},
    ),
    ("acme", f"UPDATE calls SET api = 'CompareFace' WHERE {ONE_CALL}", {USAGE}),
    ("acme", f"UPDATE calls SET result_code = 'E.Uncharged' WHERE {ONE_CALL}", {USAGE}),
    ("acme", f"UPDATE calls SET occurred_on = '2026-11-23' WHERE {ONE_CALL}", {USAGE, CALLS, DIGESTS}),
    ("acme", f"UPDATE calls SET occurred_at = occurred_at + interval '1 day' WHERE {ONE_CALL}", {CALLS}),
    ("acme", f"UPDATE calls SET occurred_at = occurred_at - interval '1 month' WHERE {ONE_CALL}", {CALLS}),
    ("acme", "UPDATE calls SET billing_month = '2026-09-01' WHERE occurred_on = '2026-10-15'", {USAGE, CALLS}),
    ("acme", "UPDATE calls SET billing_month = '2026-12-01' WHERE occurred_on = '2026-11-23'", {USAGE, CALLS}),
    ("acme", "UPDATE calls SET billing_month = 'infinity' WHERE occurred_on = '2026-11-23'", {USAGE, CALLS}),
    ("nobody", f"UPDATE calls SET account_id = 'nobody' WHERE {ONE_CALL}", {USAGE, CALLS, PLACES}),
    ("zzz", f"UPDATE calls SET account_id = 'zzz' WHERE {ONE_CALL}", {USAGE, CALLS, PLACES}),
    ("", f"UPDATE calls SET account_id = '' WHERE {ONE_CALL}", {USAGE, CALLS, PLACES}),
    ("acme", "DROP TABLE calls_20261015", {USAGE, PLACES}),
    ("acme", f"UPDATE calls SET call_id = gen_random_uuid() WHERE {ONE_CALL}", {DIGESTS}),
    ("acme", f"UPDATE calls SET occurred_at = occurred_at + interval '1 microsecond' WHERE {ONE_CALL}", {DIGESTS}),
    ("zenith", f"DELETE FROM calls WHERE {ONE_OPEN_CALL}", {USAGE, PLACES}),
    ("zenith", f"UPDATE calls SET api = 'CompareFace' WHERE {ONE_OPEN_CALL}", {USAGE}),
    ("zenith", f"UPDATE calls SET result_code = 'E.Charged' WHERE {ONE_OPEN_CALL}", {USAGE}),
    # usage_daily, usage_deltas
    (
        "acme",
        (
            "UPDATE usage_daily SET calls = calls + 1 WHERE account_id = 'acme' AND billing_month = '2026-11-01'"
            " AND occurred_on > '2026-11-01'"
        ),
        {USAGE, PLACES},
    ),
    (
        "acme",
        "UPDATE usage_daily SET calls = calls + 1 WHERE account_id = 'acme' AND billing_month = '2026-10-01'",
        {USAGE, BILL_CALLS, RATING},
    ),
    (
        "acme",
        "DELETE FROM usage_daily WHERE account_id = 'acme' AND billing_month = '2026-10-01'",
        {USAGE, BILL_CALLS, RATING},
    ),
    (
        "acme",
        (
            "UPDATE usage_daily SET result_code = 'E.Uncharged' WHERE account_id = 'acme' AND"
            " billing_month = '2026-10-01' AND occurred_on = '2026-10-15'"
        ),
        {USAGE, RATING},
    ),
    (
        "zenith",
        "UPDATE usage_daily SET billing_month = '2026-11-01' WHERE account_id = 'zenith' AND occurred_on < '2026-11-1'",
        {USAGE, BILL_CALLS, RATING},
    ),
    (
        "acme",
        "INSERT INTO usage_deltas VALUES ('acme', '2026-11-01', '2026-11-02', 'DetectAuth', '', 1)",
        {USAGE, PLACES},
    ),
    (
        "nobody",
        "INSERT INTO usage_deltas VALUES ('nobody', '2026-11-01', '2026-11-02', 'DetectAuth', '', 1)",
        {USAGE, PLACES},
    ),
    # months
    ("acme", "DELETE FROM months WHERE month = '2026-10-01'", {BILL_MONTHS, CALLS}),
    ("zenith", "DELETE FROM months WHERE month = '2026-10-01'", {BILL_MONTHS}),
    ("acme", "UPDATE months SET month = '2026-08-01' WHERE month = '2026-09-01'", {BILL_MONTHS, CALLS}),
    # bills
    ("acme", f"UPDATE bills SET total = total + 1 WHERE {ACME_OCTOBER}", {BILLS}),
    ("acme", f"UPDATE bills SET deducted = deducted + 0.01 WHERE {ACME_OCTOBER}", {BILLS}),
    ("acme", f"UPDATE bills SET currency = 'USD' WHERE {ACME_OCTOBER}", {BILLS, RATING}),
    ("acme", f"UPDATE bills SET currency = 'LEU' WHERE {ACME_OCTOBER}", {BILLS, LINES, RATING}),
    ("acme", f"UPDATE bills SET due_date = '2027-11-03' WHERE {ACME_OCTOBER}", {BILLS}),
    ("acme", f"UPDATE bills SET state = 'PAID' WHERE {ACME_OCTOBER}", {BILLS, STATES}),
    ("acme", f"UPDATE bills SET state = 'ISSUED' WHERE {ACME_OCTOBER}", {BILLS, STATES}),
    ("zenith", "UPDATE bills SET state = 'ISSUED' WHERE account_id = 'zenith'", {BILLS}),
    ("zenith", "UPDATE bills SET state = 'OVERDUE' WHERE account_id = 'zenith'", {BILLS, STATES}),
    ("acme", f"UPDATE bills SET month = '2026-08-01' WHERE {ACME_OCTOBER}", {BILL_CALLS, BILL_MONTHS, ISSUED, ENTRIES}),
    ("nobody", f"UPDATE bills SET account_id = 'nobody' WHERE {ACME_OCTOBER}", {BILLS}),
    ("acme", f"DELETE FROM bills WHERE {ACME_OCTOBER}", {ISSUED, BILL_CALLS, ENTRIES, STATES}),
    (
        "acme",
        (
            f"INSERT INTO bills SELECT 'acme', '2026-11-01', currency, 'PAID', 0, 0, issued_at, '2026-12-03'"
            f" FROM bills WHERE {ACME_OCTOBER}"
        ),
        {BILL_CALLS, BILL_MONTHS},
    ),
    (
        "idle",
        "INSERT INTO bills VALUES ('idle', '2026-10-01', 'CNY', 'ISSUED', 0.5, 0, now(), '2026-11-03')",
        {BILLS, STATES},
    ),
    # bill_lines
    ("acme", f"UPDATE bill_lines SET calls = calls + 1 WHERE {ACME_OCTOBER}", {BILL_CALLS, PLACES, RATING}),
    ("acme", f"UPDATE bill_lines SET charged_calls = charged_calls - 1 WHERE {ACME_OCTOBER}", {LINES, RATING}),
    ("acme", f"UPDATE bill_lines SET amount = amount + 0.01 WHERE {ACME_OCTOBER}", {LINES, RATING, BILLS}),
    ("acme", f"UPDATE bill_lines SET exact_amount = exact_amount + 0.000000001 WHERE {ACME_OCTOBER}", {LINES, RATING}),
    ("acme", f"""UPDATE bill_lines SET parts = '[[1, "0.0125"]]' WHERE {ACME_OCTOBER}""", {LINES, RATING}),
    ("acme", f"UPDATE bill_lines SET parts = '{{}}' WHERE {ACME_OCTOBER}", {LINES, RATING}),
    ("acme", f"""UPDATE bill_lines SET parts = '[["one", "x"]]' WHERE {ACME_OCTOBER}""", {LINES}),
    ("acme", f"UPDATE bill_lines SET parts = '7' WHERE {ACME_OCTOBER}", {LINES}),
    (
        "acme",
        (
            "UPDATE bill_lines SET parts = '[[200, \"0.01\"]]', exact_amount = 2, amount = 2"
            f" WHERE {ACME_OCTOBER} AND occurred_month = month"
        ),
        {RATING, BILLS},
    ),
    ("acme", f"UPDATE bill_lines SET api = 'CompareFace' WHERE {ACME_OCTOBER}", {BILL_CALLS, RATING}),
    ("acme", f"UPDATE bill_lines SET price_plan_version = 9 WHERE {ACME_OCTOBER}", {RATING}),
    ("acme", f"UPDATE bill_lines SET price_plan_id = 'other' WHERE {ACME_OCTOBER}", {RATING}),
    (
        "acme",
        f"UPDATE bill_lines SET occurred_month = '2026-08-01' WHERE {ACME_OCTOBER} AND occurred_month < month",
        {BILL_CALLS, RATING},
    ),
    ("acme", f"DELETE FROM bill_lines WHERE {ACME_OCTOBER}", {BILL_CALLS, BILLS, PLACES}),
    ("nobody", f"UPDATE bill_lines SET account_id = 'nobody' WHERE {ACME_OCTOBER}", {BILL_CALLS, LINES, RATING}),
    (
        "acme",
        (
            "INSERT INTO bill_lines SELECT account_id, month, occurred_month, 'Extra', calls, charged_calls, parts,"
            f" exact_amount, amount, price_plan_id, price_plan_version FROM bill_lines WHERE {ACME_OCTOBER} LIMIT 1"
        ),
        {BILL_CALLS, BILLS, PLACES, RATING},
    ),
    # price_plans, price_plan_assignments
    ("zenith", "UPDATE price_plans SET prices = replace(prices::text, '0.0125', '0.0126')::jsonb", {RATING}),
    ("zenith", "UPDATE price_plans SET prices = '[]'", {RATING}),
    ("zenith", "UPDATE price_plans SET prices = '[{}]'", {RATING}),
    ("zenith", """UPDATE price_plans SET prices = jsonb_set(prices, '{0,tiers}', '[]')""", {RATING}),
    ("zenith", "UPDATE price_plans SET currency = 'USD'", {PRICES, RATING}),
    ("zenith", "UPDATE price_plans SET version = 7", {RATING}),
    ("zenith", "DELETE FROM price_plans", {PRICES, RATING}),
    ("zenith", "UPDATE price_plan_assignments SET price_plan_id = 'other'", {PRICES, RATING}),
    ("zenith", "UPDATE price_plan_assignments SET from_month = '2026-11-01' WHERE account_id = 'zenith'", {RATING}),
    ("zenith", "DELETE FROM price_plan_assignments WHERE account_id = 'zenith'", {RATING}),
    ("nobody", "INSERT INTO price_plan_assignments VALUES ('nobody', '2026-01-01', 'standard')", {PRICES}),
    # accounts
    ("zenith", "UPDATE accounts SET balance = balance + 1 WHERE account_id = 'zenith'", {BALANCES}),
    ("idle", "UPDATE accounts SET balance = 0 WHERE account_id = 'idle'", {BALANCES}),
    ("acme", "UPDATE accounts SET state = 'ACTIVE' WHERE account_id = 'acme'", {STATES}),
    ("idle", "UPDATE accounts SET state = 'SUSPENDED' WHERE account_id = 'idle'", {STATES}),
    ("acme", "UPDATE accounts SET status_version = 1 WHERE account_id = 'acme'", {STATES}),
    ("zenith", "UPDATE accounts SET currency = 'USD' WHERE account_id = 'zenith'", {BILLS, PRICES}),
    ("idle", "UPDATE accounts SET currency = 'JPY' WHERE account_id = 'idle'", {PRICES}),
    ("zenith", "DELETE FROM accounts WHERE account_id = 'zenith'", {CALLS, BILLS, BALANCES, ENTRIES, PRICES}),
    ("idle", "UPDATE accounts SET account_id = 'other' WHERE account_id = 'idle'", {BALANCES, PRICES}),
    # ledger_entries
    (
        "acme",
        "UPDATE ledger_entries SET amount = amount - 1 WHERE account_id = 'acme' AND kind = 'DEDUCTION'",
        {BILLS, BALANCES, ENTRIES},
    ),
    (
        "zenith",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE account_id = 'zenith' AND kind = 'PAYMENT'",
        {BALANCES},
    ),
    (
        "idle",
        (
            "WITH more AS (UPDATE ledger_entries SET amount = amount + 0.001 WHERE account_id = 'idle')"
            " UPDATE accounts SET balance = balance + 0.001 WHERE account_id = 'idle'"
        ),
        {ENTRIES},
    ),
    ("zenith", "DELETE FROM ledger_entries WHERE account_id = 'zenith' AND kind = 'PAYMENT'", {BALANCES, ENTRIES}),
    ("zenith", "DELETE FROM ledger_entries WHERE account_id = 'zenith' AND kind = 'DEDUCTION'", {BILLS, BALANCES}),
    ("idle", "UPDATE ledger_entries SET entry_id = 9 WHERE account_id = 'idle'", {BALANCES}),
    ("idle", "INSERT INTO ledger_entries VALUES ('idle', 2, 'PAYMENT', 5, 'forged', NULL, now())", {BALANCES, STATES}),
    (
        "idle",
        (
            "INSERT INTO ledger_entries SELECT account_id, 2, kind, amount, payment_id, NULL, created_at"
            " FROM ledger_entries WHERE account_id = 'idle'"
        ),
        {BALANCES, ENTRIES, STATES},
    ),
    (
        "zenith",
        ";".join(
            f"UPDATE ledger_entries SET entry_id = {new} WHERE account_id = 'zenith' AND entry_id = {old}"
            for old, new in ((1, 3), (2, 1), (3, 2))
        ),
        {ENTRIES},
    ),
    ("idle", "UPDATE ledger_entries SET kind = 'GIFT' WHERE account_id = 'idle'", {ENTRIES}),
    ("idle", "UPDATE ledger_entries SET payment_id = NULL WHERE account_id = 'idle'", {ENTRIES}),
    (
        "zenith",
        "UPDATE ledger_entries SET bill_month = '2026-09-01' WHERE account_id = 'zenith' AND kind = 'DEDUCTION'",
        {BILLS, ENTRIES},
    ),
    (
        "zenith",
        (
            "UPDATE ledger_entries SET kind = 'PAYMENT', payment_id = 'forged', bill_month = NULL"
            " WHERE account_id = 'zenith' AND kind = 'DEDUCTION'"
        ),
        {BILLS, ENTRIES, STATES},
    ),
    ("nobody", "UPDATE ledger_entries SET account_id = 'nobody' WHERE account_id = 'idle'", {BALANCES, ENTRIES}),
    # A whole suspension undone, as far as tables can be made to agree.
    (
        "acme",
        (
            "WITH bill AS (UPDATE bills SET state = 'ISSUED' WHERE account_id = 'acme')"
            " UPDATE accounts SET state = 'ACTIVE' WHERE account_id = 'acme'"
        ),
        {BILLS},
    ),
    # rejected_calls
    (
        "latecomer",
        "UPDATE rejected_calls SET billing_month = '2026-10-01' WHERE account_id = 'latecomer'",
        {REJECTED},
    ),
    (
        "latecomer",
        "UPDATE rejected_calls SET call_id = gen_random_uuid() WHERE account_id = 'latecomer'",
        {REJECTED},
    ),
    (
        "stranger",
        "UPDATE rejected_calls SET recorded_at = now(), billing_month = '2026-11-01' WHERE account_id = 'stranger'",
        {REJECTED},
    ),
    # bill_digests, dropped_days
    ("acme", "INSERT INTO dropped_days VALUES ('2026-10-15', 200, now())", {USAGE, PLACES}),
    ("acme", "INSERT INTO dropped_days VALUES ('2026-11-23', 100, now())", {USAGE, PLACES, CALLS}),
    ("acme", f"UPDATE bill_digests SET digest = sha256('') WHERE {ACME_OCTOBER}", {DIGESTS}),
    ("acme", f"UPDATE bill_digests SET calls = calls + 1 WHERE {ACME_OCTOBER}", {DIGESTS}),
    ("acme", f"UPDATE bill_digests SET month = '2026-08-01' WHERE {ACME_OCTOBER}", {DIGESTS, ISSUED}),
    ("nobody", f"UPDATE bill_digests SET account_id = 'nobody' WHERE {ACME_OCTOBER}", {DIGESTS, ISSUED}),
    # installation
    ("acme", "UPDATE installation SET billing_time_zone = 'America/Los_Angeles'", {CALLS}),
]
