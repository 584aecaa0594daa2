-- record_calls --
-- Writes a batch of calls and their counts in one statement, leaving out calls that are there already.
-- $1 the months of the calls, ascending; $2 to $8 the calls, column by column.
-- Returns one row: the months, their billing months, how many calls are new, and, unless all of them are, their keys.
WITH sealed AS MATERIALIZED (
    SELECT month, open_month(month) AS billing_month FROM unnest($1::date[]) AS month
), new AS (
    INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
    SELECT call.occurred_on, call.account_id, call.call_id, call.occurred_at, call.api, call.result_code,
        sealed.billing_month
    FROM unnest($2::date[], $3::text[], $4::uuid[], $5::timestamptz[], $6::text[], $7::text[], $8::date[])
        AS call (occurred_on, account_id, call_id, occurred_at, api, result_code, month)
    JOIN sealed ON sealed.month = call.month
    -- All writers in the same order, that of copy_rows.py, so that they cannot deadlock.
    ORDER BY call.account_id COLLATE "C", call.api COLLATE "C", call.result_code COLLATE "C", call.occurred_on,
        call.call_id
    ON CONFLICT DO NOTHING
    RETURNING occurred_on, account_id, call_id, api, result_code, billing_month
), counted AS (
    INSERT INTO usage_deltas (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT account_id, billing_month, occurred_on, api, result_code, count(*)
    FROM new
    GROUP BY account_id, billing_month, occurred_on, api, result_code
)
SELECT
    (SELECT array_agg(month) FROM sealed) AS months,
    (SELECT array_agg(billing_month) FROM sealed) AS billing_months,
    count(*) AS new_calls,
    CASE WHEN count(*) < cardinality($2::date[]) THEN array_agg(occurred_on) END AS occurred_on,
    CASE WHEN count(*) < cardinality($2::date[]) THEN array_agg(account_id) END AS account_id,
    CASE WHEN count(*) < cardinality($2::date[]) THEN array_agg(call_id) END AS call_id
FROM new;

-- open_months --
-- Holds the seal on the billing months of calls of the months $1 (ascending) until the transaction ends.
SELECT month, open_month(month) AS billing_month FROM unnest($1::date[]) AS month;

-- billing_months_of_calls --
-- The billing months of the calls with the given keys; unknown keys are left out.
SELECT calls.occurred_on, calls.account_id, calls.call_id, calls.billing_month
FROM unnest($1::date[], $2::text[], $3::uuid[]) AS key (occurred_on, account_id, call_id)
JOIN calls ON calls.occurred_on = key.occurred_on AND calls.account_id = key.account_id
    AND calls.call_id = key.call_id;

-- calls_partitions --
-- The days that have a partition of calls.
SELECT to_date(substring(child.relname FROM 'calls_(\d{8})$'), 'YYYYMMDD') AS day
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = 'calls'::regclass;

-- ensure_calls_partition --
-- Makes the partition of a day unless it is there; tells whether it was made now.
SELECT ensure_calls_partition($1::date) AS made;

-- tell_of_calls_partitions --
-- Has all sessions look again at the partitions: one may have missed that a partition was made while it looked.
SELECT tell_of_calls_partitions();

-- lock_fold --
-- Takes the lock of the folder, if no other replica has it, until the transaction ends.
SELECT pg_try_advisory_xact_lock(1147, 2) AS locked;

-- fold_usage --
-- Moves at most $1 usage deltas into usage_daily. One transaction at a time: see lock_fold.
WITH folded AS (
    DELETE FROM usage_deltas WHERE ctid = ANY (ARRAY(SELECT ctid FROM usage_deltas LIMIT $1))
    RETURNING account_id, billing_month, occurred_on, api, result_code, calls
), summed AS (
    INSERT INTO usage_daily (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT account_id, billing_month, occurred_on, api, result_code, sum(calls)::bigint
    FROM folded
    GROUP BY account_id, billing_month, occurred_on, api, result_code
    -- In the order of the key, neighbours are on the same page.
    ORDER BY account_id, billing_month, occurred_on, api, result_code
    ON CONFLICT (account_id, billing_month, occurred_on, api, result_code)
        DO UPDATE SET calls = usage_daily.calls + excluded.calls
)
SELECT count(*) AS folded FROM folded;
