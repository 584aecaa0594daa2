-- session_faults --
-- What is wrong with this session, one row each; none: it is what the promises need it to be.
SELECT fault AS wrong
FROM unnest(ARRAY[
    CASE WHEN current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')
        THEN format('synchronous_commit is %s, not on', current_setting('synchronous_commit')) END,
    CASE WHEN current_setting('default_transaction_isolation') <> 'read committed'
        THEN format('default_transaction_isolation is %s, not read committed',
            current_setting('default_transaction_isolation')) END,
    CASE WHEN has_table_privilege('ledger_entries', 'UPDATE, DELETE')
        THEN format('the role %s may change the ledger', current_user) END,
    CASE WHEN NOT has_table_privilege('ledger_entries', 'INSERT')
        THEN format('the role %s lacks the privileges of metering_service', current_user) END,
    CASE WHEN current_setting('statement_timeout') = '0' THEN 'statement_timeout is off' END,
    CASE WHEN current_setting('lock_timeout') = '0' THEN 'lock_timeout is off' END,
    CASE WHEN current_setting('idle_in_transaction_session_timeout') = '0'
        THEN 'idle_in_transaction_session_timeout is off' END
]) AS fault
WHERE fault IS NOT NULL;
