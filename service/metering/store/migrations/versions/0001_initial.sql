-- The schema of FaceID Metering.
--
-- It runs unchanged on plain PostgreSQL and, distributed by account_id, on Citus. What that asks for: every table of an
-- account is led by account_id and every unique key holds it; foreign keys are named and added by an ALTER of their
-- own; months and price plans are small shared tables that never point at tables of accounts; there are no triggers.
--
-- The service works as the role metering_service, which owns nothing: it cannot change or delete a call, a bill line
-- or a ledger entry. The role that runs the migrations owns everything.

DO $$
BEGIN
    -- Roles belong to the whole server, so the role may be there from another database.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'metering_service') THEN
        CREATE ROLE metering_service NOLOGIN;
    END IF;
    -- Who creates a role may administer it; since PostgreSQL 16 that does not include becoming it.
    IF NOT pg_has_role(current_user, 'metering_service',
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
        EXECUTE format('GRANT metering_service TO %I', current_user);
    END IF;
EXCEPTION
    -- Another database's migration of the same server was faster.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- What this database was set up for. One row.
CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    billing_time_zone text NOT NULL,
    installed_at timestamptz NOT NULL
);

-- Accounts --------------------------------------------------------------------------------------------------------

CREATE TABLE accounts (
    account_id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    state text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'SUSPENDED')),
    -- The sum of the account's ledger entries.
    balance numeric NOT NULL DEFAULT 0 CHECK (balance >= 0),
    -- Grows with every change of state or of what is outstanding.
    status_version bigint NOT NULL DEFAULT 1,
    activated_at timestamptz NOT NULL,
    CONSTRAINT accounts_pkey PRIMARY KEY (account_id)
);
-- For the gauge of suspended accounts.
CREATE INDEX accounts_suspended ON accounts (account_id) WHERE state = 'SUSPENDED';

-- Price plans. A version never changes; prices is the plan's JSON document, its decimals written as strings.
CREATE TABLE price_plans (
    price_plan_id text COLLATE "C" NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    currency text NOT NULL,
    prices jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT price_plans_pkey PRIMARY KEY (price_plan_id, version)
);

-- Which plan an account has from which month on, up to its next assignment. 0001-01-01: from the beginning.
CREATE TABLE price_plan_assignments (
    account_id text COLLATE "C" NOT NULL,
    from_month date NOT NULL CHECK (extract(day FROM from_month) = 1),
    price_plan_id text COLLATE "C" NOT NULL,
    CONSTRAINT price_plan_assignments_pkey PRIMARY KEY (account_id, from_month)
);
ALTER TABLE price_plan_assignments ADD CONSTRAINT price_plan_assignments_account_fkey
    FOREIGN KEY (account_id) REFERENCES accounts (account_id);

-- Calls -----------------------------------------------------------------------------------------------------------

-- One row per recorded call: the evidence. Partitioned by day in the billing time zone.
-- No foreign key to accounts: recording checks the account first, accounts are never deleted, and the check would cost
-- an index look-up for every call. Wide columns first, so that no space is lost to alignment.
CREATE TABLE calls (
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    occurred_on date NOT NULL,
    -- The month on whose bill the call stands: its own, or a later one if its own was closed when it came in.
    billing_month date NOT NULL,
    call_id uuid NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    api text COLLATE "C" NOT NULL,
    result_code text COLLATE "C" NOT NULL,
    CONSTRAINT calls_pkey PRIMARY KEY (occurred_on, account_id, call_id)
) PARTITION BY RANGE (occurred_on);

-- Makes the partition of a day unless it is there. Runs as the owner, because the service owns no tables.
-- Made aside and then attached, which does not wait for transactions that are writing to other partitions.
CREATE FUNCTION ensure_calls_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    partition text := 'calls_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- One at a time among all replicas.
    PERFORM pg_advisory_xact_lock(1147, 1);
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE calls INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', partition);
    -- A day is only added to, except when retention drops it as a whole: nothing to vacuum but for freezing.
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_insert_scale_factor = 0.5)', partition);
    EXECUTE format('ALTER TABLE calls ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, day, day + 1);
    RETURN true;
END
$$;

-- Counts of committed batches, appended in the transaction that wrote the calls. Folded into usage_daily once a second,
-- so that no two batches ever wait for each other on a counter.
CREATE TABLE usage_deltas (
    account_id text COLLATE "C" NOT NULL,
    billing_month date NOT NULL,
    occurred_on date NOT NULL,
    api text COLLATE "C" NOT NULL,
    result_code text COLLATE "C" NOT NULL,
    calls bigint NOT NULL CHECK (calls > 0)
) WITH (
    -- Everything in it is deleted within a second or two, so it pays to vacuum it early and at full speed.
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);

-- The same counts, folded. Usage is usage_daily and usage_deltas, read in one snapshot.
CREATE TABLE usage_daily (
    account_id text COLLATE "C" NOT NULL,
    billing_month date NOT NULL,
    occurred_on date NOT NULL,
    api text COLLATE "C" NOT NULL,
    result_code text COLLATE "C" NOT NULL,
    calls bigint NOT NULL CHECK (calls > 0),
    CONSTRAINT usage_daily_pkey PRIMARY KEY (account_id, billing_month, occurred_on, api, result_code)
) WITH (
    -- Updated once a second in place: room in the page keeps such updates off the index.
    fillfactor = 70
);

CREATE VIEW usage AS
    SELECT account_id, billing_month, occurred_on, api, result_code, calls FROM usage_daily
    UNION ALL
    SELECT account_id, billing_month, occurred_on, api, result_code, calls FROM usage_deltas;

-- Calls that were not recorded, and why.
CREATE TABLE rejected_calls (
    account_id text COLLATE "C" NOT NULL,
    call_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    rejected_at timestamptz NOT NULL,
    api text COLLATE "C" NOT NULL,
    result_code text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    message text NOT NULL,
    CONSTRAINT rejected_calls_pkey PRIMARY KEY (account_id, call_id, occurred_at)
);
CREATE INDEX rejected_calls_by_time ON rejected_calls (rejected_at, account_id, call_id, occurred_at);

-- Months ----------------------------------------------------------------------------------------------------------

-- Months that are closed. A month that is not here is open.
CREATE TABLE months (
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    closed_at timestamptz NOT NULL,
    CONSTRAINT months_pkey PRIMARY KEY (month)
);

-- Returns the month on whose bill a call of `month` stands: `month`, or the next open one.
--
-- It holds the seal: a shared lock on that month until the transaction ends. CloseMonth takes the same lock
-- exclusively, so that a month is closed before a batch of calls looks at it or after that batch is committed.
-- It must look at months only once it has the lock, and with a snapshot taken after that: therefore a function, and
-- VOLATILE, each of whose statements has a snapshot of its own.
CREATE FUNCTION open_month(month date) RETURNS date
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    candidate date := month;
BEGIN
    LOOP
        PERFORM pg_advisory_xact_lock_shared(1146, to_char(candidate, 'YYYYMM')::integer);
        IF NOT EXISTS (SELECT FROM months WHERE months.month = candidate) THEN
            RETURN candidate;
        END IF;
        candidate := candidate + interval '1 month';
    END LOOP;
END
$$;

-- The days on which the monthly run did its work; at most one row a day.
CREATE TABLE monthly_runs (
    run_on date NOT NULL,
    finished_at timestamptz NOT NULL,
    CONSTRAINT monthly_runs_pkey PRIMARY KEY (run_on)
);

-- Money -----------------------------------------------------------------------------------------------------------

CREATE TABLE bills (
    account_id text COLLATE "C" NOT NULL,
    month date NOT NULL,
    currency text NOT NULL,
    state text NOT NULL CHECK (state IN ('ISSUED', 'PAID', 'OVERDUE')),
    total numeric NOT NULL CHECK (total >= 0),
    deducted numeric NOT NULL DEFAULT 0 CHECK (deducted BETWEEN 0 AND total),
    issued_at timestamptz NOT NULL,
    due_date date NOT NULL,
    CONSTRAINT bills_pkey PRIMARY KEY (account_id, month),
    CONSTRAINT bills_paid_when_deducted CHECK ((state = 'PAID') = (deducted = total))
);
ALTER TABLE bills ADD CONSTRAINT bills_account_fkey FOREIGN KEY (account_id) REFERENCES accounts (account_id);
CREATE INDEX bills_unpaid ON bills (account_id, month) WHERE state <> 'PAID';
CREATE INDEX bills_by_month ON bills (month, account_id);

-- parts is a JSON list of [quantity, "unit price"], in the order of the calls.
CREATE TABLE bill_lines (
    account_id text COLLATE "C" NOT NULL,
    month date NOT NULL,
    occurred_month date NOT NULL,
    api text COLLATE "C" NOT NULL,
    calls bigint NOT NULL CHECK (calls > 0),
    charged_calls bigint NOT NULL CHECK (charged_calls BETWEEN 0 AND calls),
    parts jsonb NOT NULL,
    exact_amount numeric NOT NULL CHECK (exact_amount >= 0),
    amount numeric NOT NULL CHECK (amount >= 0),
    price_plan_id text COLLATE "C" NOT NULL,
    price_plan_version integer NOT NULL,
    CONSTRAINT bill_lines_pkey PRIMARY KEY (account_id, month, occurred_month, api)
);
ALTER TABLE bill_lines ADD CONSTRAINT bill_lines_bill_fkey
    FOREIGN KEY (account_id, month) REFERENCES bills (account_id, month);

-- What has moved on an account's balance. entry_id counts from 1 in each account, without gaps. A payment brings money
-- in, a deduction takes it out for one bill; nothing else exists, and nothing gives money back.
CREATE TABLE ledger_entries (
    account_id text COLLATE "C" NOT NULL,
    entry_id bigint NOT NULL CHECK (entry_id > 0),
    kind text NOT NULL,
    amount numeric NOT NULL,
    payment_id text COLLATE "C",
    bill_month date,
    created_at timestamptz NOT NULL,
    CONSTRAINT ledger_entries_pkey PRIMARY KEY (account_id, entry_id),
    CONSTRAINT ledger_entries_payment_once UNIQUE (account_id, payment_id),
    CONSTRAINT ledger_entries_kind CHECK (
        (kind = 'PAYMENT' AND amount > 0 AND payment_id IS NOT NULL AND bill_month IS NULL)
        OR (kind = 'DEDUCTION' AND amount < 0 AND payment_id IS NULL AND bill_month IS NOT NULL)
    )
);
ALTER TABLE ledger_entries ADD CONSTRAINT ledger_entries_account_fkey
    FOREIGN KEY (account_id) REFERENCES accounts (account_id);
ALTER TABLE ledger_entries ADD CONSTRAINT ledger_entries_bill_fkey
    FOREIGN KEY (account_id, bill_month) REFERENCES bills (account_id, month);

-- Privileges ------------------------------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA public TO metering_service;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO metering_service;
GRANT INSERT ON installation, accounts, price_plans, price_plan_assignments, calls, usage_deltas, usage_daily,
    rejected_calls, months, monthly_runs, bills, bill_lines, ledger_entries TO metering_service;
GRANT UPDATE (state, balance, status_version) ON accounts TO metering_service;
GRANT UPDATE (price_plan_id) ON price_plan_assignments TO metering_service;
GRANT UPDATE (calls) ON usage_daily TO metering_service;
GRANT UPDATE (state, deducted) ON bills TO metering_service;
GRANT DELETE ON usage_deltas TO metering_service;
REVOKE EXECUTE ON FUNCTION ensure_calls_partition(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_calls_partition(date) TO metering_service;
