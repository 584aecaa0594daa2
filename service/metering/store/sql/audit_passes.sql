-- lock_audit --
-- Takes the lock of the continuous audit, if no other replica has it, until the transaction ends.
SELECT pg_try_advisory_xact_lock(1147, 5) AS locked;

-- newest_audit_pass --
-- The newest pass of the audit.
SELECT pass_id, started_at, finished_at, next_account, resume_at, accounts, calls, differences
FROM audit_passes
ORDER BY pass_id DESC
LIMIT 1;

-- last_finished_audit_pass --
-- The newest pass of the audit that has looked at all accounts.
SELECT pass_id, started_at, finished_at, next_account, resume_at, accounts, calls, differences
FROM audit_passes
WHERE finished_at IS NOT NULL
ORDER BY pass_id DESC
LIMIT 1;

-- begin_audit_pass --
-- Notes that a pass began at $1, forgets those that began before $2; returns its number.
WITH forgotten AS (
    DELETE FROM audit_passes WHERE started_at < $2
)
INSERT INTO audit_passes (started_at, next_account, resume_at, accounts, calls, differences)
VALUES ($1, '', $1, 0, '{}', '{}')
RETURNING pass_id;

-- note_audit_pass --
-- Notes how far pass $1 is, and what it has found; with $2, that it has ended.
UPDATE audit_passes
SET finished_at = $2, next_account = $3, resume_at = $4, accounts = $5, calls = $6, differences = $7
WHERE pass_id = $1;
