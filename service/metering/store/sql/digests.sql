-- add_digests --
-- Adds the digests of the bills of the given accounts ($1) for month $2, none of whose calls occurred before $3; those
-- that are there stay.
INSERT INTO bill_digests (account_id, month, calls, digest)
SELECT account_id, $2, count(*), sha256(convert_to(
    string_agg(call_line(occurred_on, call_id, occurred_at, account_id, api, result_code) || E'\n', ''
        ORDER BY occurred_on, call_id), 'UTF8'))
FROM calls
WHERE account_id = ANY ($1::text[]) AND billing_month = $2
    AND occurred_on >= $3 AND occurred_on < $2::date + interval '1 month'
GROUP BY account_id
ON CONFLICT DO NOTHING;

-- call_lines --
-- The lines of the calls on the bill of account $1 for month $2, none of which occurred before $3, in their order.
SELECT call_line(occurred_on, call_id, occurred_at, account_id, api, result_code)
FROM calls
WHERE account_id = $1 AND billing_month = $2 AND occurred_on >= $3 AND occurred_on < $2::date + interval '1 month'
ORDER BY occurred_on, call_id;

-- add_digest --
-- Adds the digest $4 of the $3 calls on the bill of account $1 for month $2, unless it has one.
INSERT INTO bill_digests (account_id, month, calls, digest) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- bills_without_digest --
-- At most $3 bills after the bill of account $2 for month $1 that have no digest: how many calls stand on each, and in
-- which month the first of them occurred.
SELECT bills.account_id, bills.month, sum(line.calls)::bigint AS calls, min(line.occurred_month) AS occurred_from
FROM bills
JOIN bill_lines AS line ON line.account_id = bills.account_id AND line.month = bills.month
LEFT JOIN bill_digests ON bill_digests.account_id = bills.account_id AND bill_digests.month = bills.month
WHERE bill_digests.account_id IS NULL AND (bills.month, bills.account_id) > ($1::date, $2::text)
GROUP BY bills.account_id, bills.month
ORDER BY bills.month, bills.account_id
LIMIT $3;
