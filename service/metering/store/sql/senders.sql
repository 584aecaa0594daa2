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

-- forget_gaps --
-- Keeps the $1 highest ranges of each sender. What is missing below them is counted, and its place forgotten.
UPDATE senders SET
    missing = (missing::numeric + cut.low - 1
        - (SELECT coalesce(sum(upper(span) - lower(span)), 0)
            FROM unnest(arrived * int8multirange(int8range(1, cut.low))) AS span))::bigint,
    arrived = arrived + int8multirange(int8range(1, cut.low))
FROM (
    SELECT sender_id,
        (SELECT lower(span) FROM unnest(arrived) AS span ORDER BY lower(span) DESC OFFSET $1::integer - 1 LIMIT 1) AS low
    FROM senders
    WHERE (SELECT count(*) FROM unnest(arrived)) > $1::integer
    ORDER BY sender_id FOR UPDATE
) AS cut
WHERE senders.sender_id = cut.sender_id;

-- sender_gauges --
-- How many senders there are in each state, and how many of their numbers have not arrived; silent since $1. Senders may
-- say any numbers, and all together more than a bigint holds.
SELECT state, count(*) AS senders,
    least(coalesce(sum(missing::numeric + numbers - arrived_calls), 0), 9223372036854775807)::bigint AS missing_calls
FROM (
    SELECT CASE WHEN closed THEN 'CLOSED' WHEN seen_at < $1 THEN 'SILENT' ELSE 'LIVE' END AS state, numbers, missing,
        (SELECT coalesce(sum(upper(span) - lower(span)), 0) FROM unnest(arrived) AS span) AS arrived_calls
    FROM senders
) AS sender
GROUP BY state;

-- forget_senders --
-- Forgets senders that were not heard of since $2, and those since $1 of whose calls none is missing.
DELETE FROM senders
WHERE seen_at < $2
    OR (seen_at < $1 AND missing = 0 AND (arrived = '{}' AND numbers = 0 OR arrived = int8multirange(int8range(1, numbers + 1))));
