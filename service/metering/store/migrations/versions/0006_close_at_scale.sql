-- What closing a month of a million accounts needs.

-- When every account with calls in the month had its bill. Until then, the month is to be closed once more: its close was
-- interrupted, or accounts have no price. What is sealed does not change, so it need not be looked for in the usage.
ALTER TABLE months ADD COLUMN billed_at timestamptz;
GRANT UPDATE (billed_at) ON months TO metering_service;

-- For the months that have usage. Equal keys share their entry, so it is small, and counting up does not touch it.
CREATE INDEX usage_daily_by_month ON usage_daily (billing_month);

-- Looking up the bill of each line, and locking it, was half of what PostgreSQL spent on closing a month. One function
-- writes a bill and its lines, in one transaction; bills cannot be deleted; and the audit finds a line without a bill.
ALTER TABLE bill_lines DROP CONSTRAINT bill_lines_bill_fkey;
