-- How far the continuous audit is, and what it has found.

-- One row for each time that all accounts are audited. finished_at is null while a pass is under way; only the newest
-- one can be. calls and differences are JSON documents {name: number}.
CREATE TABLE audit_passes (
    pass_id bigint GENERATED ALWAYS AS IDENTITY,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    -- The account that comes next; those before it are audited.
    next_account text COLLATE "C" NOT NULL,
    -- No replica goes on before that.
    resume_at timestamptz NOT NULL,
    accounts bigint NOT NULL,
    calls jsonb NOT NULL,
    differences jsonb NOT NULL,
    CONSTRAINT audit_passes_pkey PRIMARY KEY (pass_id)
);

GRANT SELECT, INSERT, DELETE ON audit_passes TO metering_service;
GRANT UPDATE (finished_at, next_account, resume_at, accounts, calls, differences) ON audit_passes TO metering_service;
