-- Which programs may run on this schema, so that one can go back to the program before after an upgrade.

-- Those whose newest migration is this one or a later one. A migration that only adds leaves it as it is; one that takes
-- something away sets it to the first program that does without. One row; read by whoever migrates.
CREATE TABLE schema_programs (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    oldest_migration text NOT NULL
);
INSERT INTO schema_programs (oldest_migration) VALUES ('0009');
