-- reject_calls --
-- Keeps calls that were not recorded. At most $9 of an account and $10 in all may be rejected at a time, without those
-- that are recorded by now. $1 to $8 are the calls, column by column.
-- Returns how many were kept now, and how many had been kept before.
WITH incoming AS MATERIALIZED (
    SELECT rejected.*,
        row_number() OVER (PARTITION BY account_id) AS place_in_account,
        row_number() OVER () AS place
    FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
        $8::text[])
        AS rejected (account_id, call_id, occurred_at, rejected_at, api, result_code, reason, message)
), held AS (
    SELECT account_id, (
        SELECT count(*)
        FROM (
            SELECT FROM rejected_calls AS held
            WHERE held.account_id = accounts.account_id AND held.recorded_at IS NULL
            LIMIT $9
        ) AS held
    ) AS calls
    FROM (SELECT DISTINCT account_id FROM incoming) AS accounts
), held_in_all AS (
    SELECT count(*) AS calls FROM (SELECT FROM rejected_calls WHERE recorded_at IS NULL LIMIT $10) AS held
), kept AS (
    INSERT INTO rejected_calls (account_id, call_id, occurred_at, rejected_at, api, result_code, reason, message)
    SELECT account_id, call_id, occurred_at, rejected_at, api, result_code, reason, message
    FROM incoming
    JOIN held USING (account_id)
    CROSS JOIN held_in_all
    WHERE held.calls + place_in_account <= $9 AND held_in_all.calls + place <= $10
    ON CONFLICT DO NOTHING
    RETURNING account_id
)
SELECT
    (SELECT count(*) FROM kept) AS kept,
    (SELECT count(*) FROM incoming JOIN rejected_calls USING (account_id, call_id, occurred_at)) AS kept_before;

-- list_rejected_calls --
-- Rejected calls of account $1 (NULL: of all) that are recorded by now or not as $2 says (NULL: either), after the place
-- ($3, $4, $5, $6), oldest first, at most $7.
SELECT account_id, call_id::text AS call_id, occurred_at, rejected_at, api, result_code, reason, message, retried_at,
    recorded_at, billing_month
FROM rejected_calls
WHERE ($1::text IS NULL OR account_id = $1)
    AND ($2::boolean IS NULL OR (recorded_at IS NOT NULL) = $2)
    AND (rejected_at, account_id, call_id, occurred_at) > ($3::timestamptz, $4::text, $5::uuid, $6::timestamptz)
ORDER BY rejected_at, account_id, call_id, occurred_at
LIMIT $7;

-- note_recorded --
-- Notes at $1 on which bills rejected calls stand now, which is known of them for the first time. $2 to $5 are their
-- keys and their billing months, column by column.
UPDATE rejected_calls
SET retried_at = $1, recorded_at = $1, billing_month = retried.billing_month
FROM unnest($2::text[], $3::uuid[], $4::timestamptz[], $5::date[])
    AS retried (account_id, call_id, occurred_at, billing_month)
WHERE rejected_calls.account_id = retried.account_id AND rejected_calls.call_id = retried.call_id
    AND rejected_calls.occurred_at = retried.occurred_at AND rejected_calls.recorded_at IS NULL;

-- note_still_rejected --
-- Notes at $1 why calls were rejected again. $2 to $6 are their keys, reasons and messages, column by column.
UPDATE rejected_calls
SET retried_at = $1, reason = retried.reason, message = retried.message
FROM unnest($2::text[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[])
    AS retried (account_id, call_id, occurred_at, reason, message)
WHERE rejected_calls.account_id = retried.account_id AND rejected_calls.call_id = retried.call_id
    AND rejected_calls.occurred_at = retried.occurred_at AND rejected_calls.recorded_at IS NULL;

-- purge_rejected_calls --
-- Removes calls that were recorded before $1 or, still being rejected, were rejected before $2, and of those that are
-- recorded all but the newest $3.
WITH kept AS (
    SELECT recorded_at FROM rejected_calls WHERE recorded_at IS NOT NULL ORDER BY recorded_at DESC OFFSET $3 LIMIT 1
), purged AS (
    DELETE FROM rejected_calls
    WHERE recorded_at < $1 OR recorded_at <= (SELECT recorded_at FROM kept)
        OR (recorded_at IS NULL AND rejected_at < $2)
    RETURNING account_id
)
SELECT count(*) AS purged FROM purged;
