-- What a bill stands on, and the days whose calls are gone.

-- A call as the digest of its bill sees it: docs/billing.md. It never changes, or no digest could be checked any more.
CREATE FUNCTION call_line(
    occurred_on date, call_id uuid, occurred_at timestamptz, account_id text, api text, result_code text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT to_char(occurred_on::timestamp, 'YYYY-MM-DD') || ' ' || call_id::text || ' '
        || (extract(epoch FROM occurred_at) * 1000000)::bigint || ' ' || account_id || ' ' || api || ' ' || result_code
$$;

-- The SHA-256 of the calls on each bill, made in the transaction that issues it. Without a row: the bill is older than
-- digests. The service may add to it, and change nothing. No foreign key to bills: the check would cost as much as the
-- row itself, for every account of a close.
CREATE TABLE bill_digests (
    account_id text COLLATE "C" NOT NULL,
    month date NOT NULL,
    -- How many calls stand on the bill.
    calls bigint NOT NULL CHECK (calls >= 0),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    CONSTRAINT bill_digests_pkey PRIMARY KEY (account_id, month)
);

-- Days whose calls were archived and dropped. Usage, bills and digests of these days stay; their raw calls are gone for
-- ever, and no call of such a day is recorded any more, since nobody could tell whether it is a repeat.
CREATE TABLE dropped_days (
    day date NOT NULL,
    -- How many calls it had.
    calls bigint NOT NULL CHECK (calls >= 0),
    dropped_at timestamptz NOT NULL,
    CONSTRAINT dropped_days_pkey PRIMARY KEY (day)
);

-- As before, but a day that was dropped never comes back.
CREATE OR REPLACE FUNCTION ensure_calls_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    partition text := 'calls_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- One at a time among all replicas, and not while a day is dropped.
    PERFORM pg_advisory_xact_lock(1147, 1);
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM dropped_days WHERE dropped_days.day = ensure_calls_partition.day) THEN
        RAISE EXCEPTION 'the calls of % were archived and dropped', day
            USING ERRCODE = 'check_violation', CONSTRAINT = 'dropped_days';
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE calls INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', partition);
    -- A day is only added to, except when retention drops it as a whole: nothing to vacuum but for freezing.
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_insert_scale_factor = 0.5)', partition);
    EXECUTE format('ALTER TABLE calls ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, day, day + 1);
    RETURN true;
END
$$;

-- Drops the calls of a day, for ever. Only the owner can: the service has no right to lose a call.
-- It waits no longer than lock_timeout for what is being recorded and read, during which recording waits, too.
CREATE FUNCTION drop_calls_partition(day date, expected_calls bigint, dropped_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    partition text := 'calls_' || to_char(day, 'YYYYMMDD');
    found_calls bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1147, 1);
    -- Other days are recorded and read while the calls are counted.
    EXECUTE format('LOCK TABLE %I IN SHARE MODE', partition);
    EXECUTE format('SELECT count(*) FROM %I', partition) INTO found_calls;
    IF found_calls <> expected_calls THEN
        RAISE EXCEPTION 'the day % has % calls, not %', day, found_calls, expected_calls;
    END IF;
    INSERT INTO dropped_days VALUES (day, found_calls, dropped_at);
    EXECUTE format('DROP TABLE %I', partition);
END
$$;
REVOKE EXECUTE ON FUNCTION drop_calls_partition(date, bigint, timestamptz) FROM PUBLIC;

GRANT SELECT, INSERT ON bill_digests TO metering_service;
GRANT SELECT ON dropped_days TO metering_service;
