-- What each monthly run did, and what became of rejected calls.

-- One row per run, and one for the installation, which did nothing. finished_at is null while a run is under way, and
-- for ever if it was killed. Sums of money are JSON documents {currency: decimal as a string}; failed is a JSON list of
-- the first failures, [month, account_id or '', message].
ALTER TABLE monthly_runs DROP CONSTRAINT monthly_runs_pkey;
ALTER TABLE monthly_runs
    ALTER COLUMN finished_at DROP NOT NULL,
    ADD COLUMN run_id bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN replica text NOT NULL DEFAULT '',
    ADD COLUMN started_at timestamptz,
    ADD COLUMN months date[] NOT NULL DEFAULT '{}',
    ADD COLUMN bills_issued bigint NOT NULL DEFAULT 0,
    ADD COLUMN issued jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN bills_paid bigint NOT NULL DEFAULT 0,
    ADD COLUMN deducted jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN accounts_suspended bigint NOT NULL DEFAULT 0,
    ADD COLUMN accounts_unrated bigint NOT NULL DEFAULT 0,
    ADD COLUMN failures bigint NOT NULL DEFAULT 0,
    ADD COLUMN failed jsonb NOT NULL DEFAULT '[]',
    ADD CONSTRAINT monthly_runs_pkey PRIMARY KEY (run_id);
UPDATE monthly_runs SET started_at = finished_at;
ALTER TABLE monthly_runs ALTER COLUMN started_at SET NOT NULL;

-- recorded_at and billing_month are set once the call is on the books.
ALTER TABLE rejected_calls
    ADD COLUMN retried_at timestamptz,
    ADD COLUMN recorded_at timestamptz,
    ADD COLUMN billing_month date,
    ADD CONSTRAINT rejected_calls_recorded CHECK ((recorded_at IS NULL) = (billing_month IS NULL));
-- For the purge, and for the bounds, which count the calls that are still rejected.
CREATE INDEX rejected_calls_recorded ON rejected_calls (recorded_at) WHERE recorded_at IS NOT NULL;
CREATE INDEX rejected_calls_still_rejected ON rejected_calls (account_id) WHERE recorded_at IS NULL;

GRANT UPDATE (finished_at, months, bills_issued, issued, bills_paid, deducted, accounts_suspended, accounts_unrated,
    failures, failed) ON monthly_runs TO metering_service;
GRANT UPDATE (reason, message, retried_at, recorded_at, billing_month) ON rejected_calls TO metering_service;
GRANT DELETE ON rejected_calls TO metering_service;
