-- Who did what: everything that somebody's decision changed. The service can add to both tables, and change nothing.

-- One row per act, written before the act is done: what cannot be noted is not done.
CREATE TABLE administrative_acts (
    act_id bigint GENERATED ALWAYS AS IDENTITY,
    begun_at timestamptz NOT NULL,
    -- The identity in the certificate or the subject of the token; anybody, where nobody is asked who they are.
    caller text NOT NULL,
    role text NOT NULL,
    -- Where the request came from.
    peer text NOT NULL,
    method text NOT NULL,
    -- Null: the act is not about one account.
    account_id text COLLATE "C",
    -- As it was sent; of one over 64 KiB the size and a hash. Not jsonb, which cannot hold all that JSON can.
    request json NOT NULL,
    CONSTRAINT administrative_acts_pkey PRIMARY KEY (act_id)
);
CREATE INDEX administrative_acts_by_account ON administrative_acts (account_id, act_id) WHERE account_id IS NOT NULL;

-- How it ended: OK, or the reason in the error that the caller got. An act that has none was given up by its caller, or
-- the service died: it may have been done or not.
CREATE TABLE administrative_outcomes (
    act_id bigint NOT NULL,
    ended_at timestamptz NOT NULL,
    outcome text NOT NULL,
    CONSTRAINT administrative_outcomes_pkey PRIMARY KEY (act_id)
);
ALTER TABLE administrative_outcomes ADD CONSTRAINT administrative_outcomes_act_fkey
    FOREIGN KEY (act_id) REFERENCES administrative_acts (act_id);

GRANT SELECT, INSERT ON administrative_acts, administrative_outcomes TO metering_service;
