-- Which of the calls that a client has numbered have arrived. Bookkeeping about the way, not about money.

CREATE TABLE senders (
    sender_id uuid NOT NULL,
    -- The numbers that have arrived. Without losses it is one range, from 1 to the highest contiguous number.
    arrived int8multirange NOT NULL,
    -- How many numbers the sender says it has given out.
    numbers bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    -- It said goodbye: its silence means nothing.
    closed boolean NOT NULL,
    CONSTRAINT senders_pkey PRIMARY KEY (sender_id)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON senders TO metering_service;
