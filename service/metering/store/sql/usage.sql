-- usage_of_month --
-- The usage of account $1 on the bill of month $2, by day, api and result code. One statement, so one snapshot.
SELECT occurred_on, api, result_code, sum(calls)::bigint AS calls
FROM usage
WHERE account_id = $1 AND billing_month = $2
GROUP BY occurred_on, api, result_code
ORDER BY api, occurred_on, result_code;

-- earlier_calls --
-- Calls of the given accounts and months ($1, $2: pairs) that stand on bills before month $3.
SELECT usage.account_id, pair.occurred_month, usage.api, usage.result_code, sum(usage.calls)::bigint AS calls
FROM unnest($1::text[], $2::date[]) AS pair (account_id, occurred_month)
JOIN usage ON usage.account_id = pair.account_id
    AND usage.billing_month >= pair.occurred_month AND usage.billing_month < $3
    AND usage.occurred_on >= pair.occurred_month AND usage.occurred_on < pair.occurred_month + interval '1 month'
GROUP BY usage.account_id, pair.occurred_month, usage.api, usage.result_code;

-- month_is_closed --
-- Whether month $1 is closed.
SELECT EXISTS (SELECT FROM months WHERE month = $1) AS closed;

-- usage_days --
-- The days on which calls of account $1 on the bill of month $2 occurred, and whether these calls were dropped.
SELECT DISTINCT usage.occurred_on, dropped_days.day IS NOT NULL AS dropped
FROM usage
LEFT JOIN dropped_days ON dropped_days.day = usage.occurred_on
WHERE usage.account_id = $1 AND usage.billing_month = $2
ORDER BY usage.occurred_on;

-- calls_of_day --
-- Calls of account $1 on day $2 on the bill of month $3, after call $4 (NULL: from the first on), at most $5.
SELECT call_id, occurred_at, recorded_at, api, result_code
FROM calls
WHERE occurred_on = $2 AND account_id = $1 AND ($4::uuid IS NULL OR call_id > $4) AND billing_month = $3
    -- Says nothing new, but is a place in the index also where the plan was made before $4 was known.
    AND call_id >= coalesce($4::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY call_id
LIMIT $5;
