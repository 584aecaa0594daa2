-- Lets all sessions be told to look again at the partitions of calls.

-- A session that reads the list of partitions in the moment when one is attached may keep a list without it: what it is
-- told of the change while it reads, PostgreSQL forgets. Such a session refuses calls of that day, and does not see them,
-- until it is told of another change. This is one, and changes nothing. It waits for no reader or writer, nor they for it.
CREATE FUNCTION tell_of_calls_partitions() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    ALTER TABLE ONLY calls ALTER COLUMN call_id SET STATISTICS -1;
END
$$;
REVOKE EXECUTE ON FUNCTION tell_of_calls_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tell_of_calls_partitions() TO metering_service;
