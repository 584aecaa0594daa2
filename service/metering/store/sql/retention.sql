-- counted_days --
-- The days before $1 whose calls are there, by the months on whose bills these stand: how many they are, how many
-- accounts have some but not that bill, and how many of these bills have no digest.
SELECT usage.occurred_on AS day, usage.billing_month AS month, sum(usage.calls)::bigint AS calls,
    count(DISTINCT usage.account_id) FILTER (WHERE bills.account_id IS NULL) AS unbilled_accounts,
    count(DISTINCT bills.account_id) FILTER (WHERE bill_digests.account_id IS NULL) AS bills_without_digest
FROM usage
LEFT JOIN bills ON bills.account_id = usage.account_id AND bills.month = usage.billing_month
LEFT JOIN bill_digests ON bill_digests.account_id = usage.account_id AND bill_digests.month = usage.billing_month
WHERE usage.occurred_on < $1 AND NOT EXISTS (SELECT FROM dropped_days WHERE dropped_days.day = usage.occurred_on)
GROUP BY usage.occurred_on, usage.billing_month
ORDER BY usage.occurred_on, usage.billing_month;

-- dropped_days --
-- Those of the days $1 whose calls were dropped.
SELECT day FROM dropped_days WHERE day = ANY ($1::date[]);

-- dropped_days_of_month --
-- Days of calls on bills of month $1 that were dropped.
SELECT day FROM dropped_days
WHERE EXISTS (SELECT FROM usage WHERE usage.occurred_on = dropped_days.day AND usage.billing_month = $1)
ORDER BY day;

-- digests_after --
-- The digests of the $3 bills of month $1 after that of account $2, in order of the accounts.
SELECT account_id, calls, encode(digest, 'hex') AS digest
FROM bill_digests
WHERE month = $1 AND account_id > $2
ORDER BY account_id
LIMIT $3;

-- calls_of_bills --
-- The calls on the bills of the given accounts ($1) for month $2, as they are archived, ordered by account, then day,
-- then call_id.
SELECT to_char(occurred_on::timestamp, 'YYYY-MM-DD'), call_id::text, (extract(epoch FROM occurred_at) * 1000000)::bigint,
    account_id, api, result_code, to_char(billing_month::timestamp, 'YYYY-MM'),
    (extract(epoch FROM recorded_at) * 1000000)::bigint
FROM calls
WHERE account_id = ANY ($1::text[]) AND billing_month = $2 AND occurred_on < $2::date + interval '1 month'
    AND occurred_on >= (SELECT min(occurred_month) FROM bill_lines WHERE account_id = ANY ($1::text[]) AND month = $2)
ORDER BY calls.account_id, calls.occurred_on, calls.call_id;

-- drop_day --
-- Drops the calls of day $1, of which there must be $2, at $3.
SELECT drop_calls_partition($1, $2, $3);
