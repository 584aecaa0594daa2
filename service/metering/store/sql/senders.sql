-- note_senders --
-- Adds to what has arrived from senders: ids $1, ranges of numbers $2, numbers given out $3, seen at $4, closing $5.
INSERT INTO senders (sender_id, arrived, numbers, seen_at, closed)
SELECT sender_id, arrived::int8multirange, numbers, seen_at, closed
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::boolean[])
    AS note (sender_id, arrived, numbers, seen_at, closed)
ON CONFLICT (sender_id) DO UPDATE SET
    arrived = senders.arrived + excluded.arrived,
    numbers = greatest(senders.numbers, excluded.numbers),
    seen_at = greatest(senders.seen_at, excluded.seen_at),
    closed = senders.closed OR excluded.closed;

-- sender_gauges --
-- How many senders there are in each state, and how many of their numbers have not arrived; silent since $1.
SELECT state, count(*) AS senders, coalesce(sum(numbers - arrived_calls), 0)::bigint AS missing_calls
FROM (
    SELECT CASE WHEN closed THEN 'CLOSED' WHEN seen_at < $1 THEN 'SILENT' ELSE 'LIVE' END AS state, numbers,
        (SELECT coalesce(sum(upper(span) - lower(span)), 0) FROM unnest(arrived) AS span) AS arrived_calls
    FROM senders
) AS sender
GROUP BY state;

-- forget_senders --
-- Forgets senders that were not heard of since $2, and those since $1 of whose calls none is missing.
DELETE FROM senders
WHERE seen_at < $2
    OR (seen_at < $1 AND (arrived = '{}' AND numbers = 0 OR arrived = int8multirange(int8range(1, numbers + 1))));
