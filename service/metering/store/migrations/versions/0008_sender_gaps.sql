-- Bounds what is kept of a sender: of gaps that are too many, only how many numbers were missing in them.

ALTER TABLE senders ADD COLUMN missing bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN senders.missing IS
    'Numbers that had not arrived when their gaps were forgotten. They count as missing even if they arrive later.';
