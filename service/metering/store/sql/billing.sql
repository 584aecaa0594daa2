-- lock_month --
-- Waits for the batches that are being recorded in month $1 (as the number 202611), keeps others out until the
-- transaction ends. The same lock that open_month takes shared. Whatever is to be recorded waits behind it: it is waited
-- for a moment only.
SELECT set_config('lock_timeout', '1s', true), pg_advisory_xact_lock(1146, $1::integer);

-- seal_month --
-- Closes month $1 at $2, unless it is closed; tells whether it was closed now.
INSERT INTO months (month, closed_at) VALUES ($1, $2) ON CONFLICT (month) DO NOTHING RETURNING true AS sealed;

-- note_billed --
-- Notes that at $2 every account with usage in month $1, which is closed, has its bill.
UPDATE months SET billed_at = $2 WHERE month = $1 AND billed_at IS NULL;

-- month --
-- What has become of month $1: when it was closed and billed, its bills, all accounts, and those up to the last one
-- with a bill.
SELECT
    (SELECT closed_at FROM months WHERE month = $1) AS closed_at,
    (SELECT billed_at FROM months WHERE month = $1) AS billed_at,
    (SELECT count(*) FROM bills WHERE month = $1) AS bills_issued,
    (SELECT count(*) FROM accounts) AS accounts,
    (SELECT count(*) FROM accounts WHERE account_id <= (SELECT max(account_id) FROM bills WHERE month = $1))
        AS accounts_looked_at;

-- lock_billing --
-- Makes changes of prices wait for the bills that are being made, until the transaction ends: see lock_prices.
SELECT pg_advisory_xact_lock_shared(1149, 0);

-- usage_of_accounts --
-- The usage of the given accounts on the bill of month $2, by the month the calls occurred in.
SELECT account_id, date_trunc('month', occurred_on)::date AS occurred_month, api, result_code,
    sum(calls)::bigint AS calls
FROM usage
WHERE account_id = ANY ($1::text[]) AND billing_month = $2
GROUP BY account_id, date_trunc('month', occurred_on), api, result_code
ORDER BY account_id, occurred_month, api, result_code;

-- billed_accounts --
-- Those of the given accounts that have a bill for month $2.
SELECT account_id FROM bills WHERE account_id = ANY ($1::text[]) AND month = $2;

-- currencies --
-- The currencies of the given accounts.
SELECT account_id, currency FROM accounts WHERE account_id = ANY ($1::text[]);

-- lock_accounts --
-- The given accounts, sorted; locks one after the other in this order, until the transaction ends.
SELECT account_id, currency, balance, state
FROM accounts
WHERE account_id = ANY ($1::text[])
ORDER BY account_id
FOR UPDATE;

-- bump_status_versions --
-- Counts the status of the given accounts up: what is outstanding has changed.
UPDATE accounts SET status_version = status_version + 1 WHERE account_id = ANY ($1::text[]);

-- month_bills --
-- How many bills month $1 has, and their totals, per currency.
SELECT currency, count(*) AS bills, sum(total) AS total FROM bills WHERE month = $1 GROUP BY currency ORDER BY currency;

-- bills --
-- The bills of account $1 for the months $2, oldest first.
SELECT account_id, month, currency, state, total, deducted, issued_at, due_date, digest AS calls_digest
FROM bills
LEFT JOIN bill_digests USING (account_id, month)
WHERE account_id = $1 AND month = ANY ($2::date[])
ORDER BY month;

-- unpaid_bills --
-- What the given accounts have not paid yet, oldest first.
SELECT account_id, month, currency, state, total, deducted, issued_at, due_date
FROM bills
WHERE account_id = ANY ($1::text[]) AND state <> 'PAID'
ORDER BY account_id, month;

-- list_bills --
-- Bills of account $1 before month $2, newest first, at most $3.
SELECT account_id, month, currency, state, total, deducted, issued_at, due_date, digest AS calls_digest
FROM bills
LEFT JOIN bill_digests USING (account_id, month)
WHERE account_id = $1 AND month < $2
ORDER BY month DESC
LIMIT $3;

-- bill_lines --
-- The lines of the bills of account $1 for the months $2.
SELECT month, occurred_month, api, calls, charged_calls, parts, exact_amount, amount, price_plan_id, price_plan_version
FROM bill_lines
WHERE account_id = $1 AND month = ANY ($2::date[])
ORDER BY month, occurred_month, api;

-- billed_month --
-- The first month whose calls of account $1 are billed, on whichever bill, of those in which an assignment from month $2
-- on would hold: up to the account's next assignment.
SELECT min(occurred_month) AS month
FROM bill_lines
WHERE account_id = $1 AND occurred_month >= $2 AND occurred_month < coalesce(
    (SELECT min(from_month) FROM price_plan_assignments WHERE account_id = $1 AND from_month > $2), 'infinity');

-- change_bills --
-- Sets state and deducted amount of bills ($1, $2: account and month) of accounts that are locked.
UPDATE bills SET state = change.state, deducted = change.deducted
FROM unnest($1::text[], $2::date[], $3::text[], $4::numeric[]) AS change (account_id, month, state, deducted)
WHERE bills.account_id = change.account_id AND bills.month = change.month;

-- change_accounts --
-- Sets state and balance of accounts, which are locked, and counts their status up.
UPDATE accounts SET state = change.state, balance = change.balance, status_version = status_version + 1
FROM unnest($1::text[], $2::text[], $3::numeric[]) AS change (account_id, state, balance)
WHERE accounts.account_id = change.account_id;

-- payment --
-- The amount of payment $2 of account $1, if it was booked.
SELECT amount FROM ledger_entries WHERE account_id = $1 AND payment_id = $2;

-- last_entry_ids --
-- The number of the last entry in the ledger of each of the given accounts, 0 if there is none.
SELECT accounts.account_id, coalesce(last.entry_id, 0) AS entry_id
FROM accounts
LEFT JOIN LATERAL (
    SELECT max(entry_id) AS entry_id FROM ledger_entries WHERE ledger_entries.account_id = accounts.account_id
) AS last ON true
WHERE accounts.account_id = ANY ($1::text[]);

-- append_ledger_entries --
-- Appends entries to the ledgers of accounts, which are locked.
INSERT INTO ledger_entries (account_id, entry_id, kind, amount, payment_id, bill_month, created_at)
SELECT *, $7 FROM unnest($1::text[], $2::bigint[], $3::text[], $4::numeric[], $5::text[], $6::date[]);

-- install --
-- Notes what this database is set up for, once.
INSERT INTO installation (billing_time_zone, installed_at) VALUES ($1, $2) ON CONFLICT (only_row) DO NOTHING
RETURNING true AS installed;

-- installed_time_zone --
-- The billing time zone this database was set up for.
SELECT billing_time_zone FROM installation;

-- book_gauges --
-- What metrics show of the books at $1.
SELECT
    (SELECT count(*) FROM accounts WHERE state = 'SUSPENDED') AS suspended_accounts,
    (SELECT count(*) FROM usage_deltas) AS unfolded_deltas,
    (SELECT count(*) FROM bills WHERE state = 'ISSUED') AS issued_bills,
    (SELECT count(*) FROM bills WHERE state = 'OVERDUE') AS overdue_bills,
    (SELECT max(month) FROM months) AS last_closed_month,
    (SELECT max(month) FROM months WHERE billed_at IS NULL) AS unbilled_month,
    coalesce(
        (SELECT extract(epoch FROM coalesce(billed_at, $1) - closed_at) FROM months ORDER BY month DESC LIMIT 1), 0
    )::float8 AS close_seconds;
