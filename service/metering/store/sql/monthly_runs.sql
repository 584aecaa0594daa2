-- lock_monthly_run --
-- Takes the lock of the monthly run, if no other replica has it, until the transaction ends, in which nothing else
-- happens: it may be idle for as long as a run can last.
SELECT pg_try_advisory_xact_lock(1147, 3) AS locked, set_config('idle_in_transaction_session_timeout', '24h', true);

-- last_monthly_runs --
-- The last day whose run did all its work, and when the last run of day $1 ended that could not do all of it.
SELECT
    (SELECT max(run_on) FROM monthly_runs WHERE finished_at IS NOT NULL AND failures = 0) AS done_on,
    (SELECT max(finished_at) FROM monthly_runs WHERE run_on = $1 AND failures > 0) AS failed_at;

-- begin_monthly_run --
-- Notes that replica $2 began the run of day $1 at $3; returns its number.
INSERT INTO monthly_runs (run_on, replica, started_at) VALUES ($1, $2, $3) RETURNING run_id;

-- note_monthly_run --
-- Notes what run $1 has done so far; with $2, that it has ended.
UPDATE monthly_runs
SET finished_at = $2, months = $3, bills_issued = $4, issued = $5, bills_paid = $6, deducted = $7,
    accounts_suspended = $8, accounts_unrated = $9, failures = $10, failed = $11
WHERE run_id = $1;

-- note_installation --
-- Notes at $2 that there is no work left for the monthly run of day $1.
INSERT INTO monthly_runs (run_on, started_at, finished_at) VALUES ($1, $2, $2);

-- list_monthly_runs --
-- Monthly runs before run $1, newest first, at most $2.
SELECT run_id, run_on, replica, started_at, finished_at, months, bills_issued, issued, bills_paid, deducted,
    accounts_suspended, accounts_unrated, failures, failed
FROM monthly_runs
WHERE run_id < $1
ORDER BY run_id DESC
LIMIT $2;

-- used_month_after --
-- The first month after $1 that has usage.
SELECT least(
    (SELECT min(billing_month) FROM usage_daily WHERE billing_month > $1),
    (SELECT min(billing_month) FROM usage_deltas WHERE billing_month > $1)
) AS month;

-- closed_months --
-- The months that are closed, when they were, and whether all their usage is billed.
SELECT month, closed_at, billed_at IS NOT NULL AS billed FROM months;

-- debtors_after --
-- The next $2 accounts after account $1 with bills that are not paid, and the month of each one's oldest.
SELECT account_id, min(month) AS oldest_month
FROM bills
WHERE state <> 'PAID' AND account_id > $1
GROUP BY account_id
ORDER BY account_id
LIMIT $2;

-- accounts_to_settle --
-- The next $2 accounts after account $1, with their balances.
SELECT account_id, currency, balance, state FROM accounts WHERE account_id > $1 ORDER BY account_id LIMIT $2;
