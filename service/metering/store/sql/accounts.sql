-- activate_account --
-- Creates account $1 with currency $2 at $3, unless it is there; tells whether it was created now.
INSERT INTO accounts (account_id, currency, activated_at)
VALUES ($1, $2, $3)
ON CONFLICT (account_id) DO NOTHING
RETURNING true AS activated;

-- account --
-- One account.
SELECT account_id, currency, state, balance, status_version, activated_at FROM accounts WHERE account_id = $1;

-- service_statuses --
-- State, what is outstanding and what is overdue of the given accounts; unknown ones are left out.
SELECT accounts.account_id, accounts.state, accounts.currency, accounts.status_version,
    unpaid.outstanding, unpaid.overdue_months
FROM accounts
LEFT JOIN LATERAL (
    SELECT sum(total - deducted) AS outstanding,
        array_agg(month ORDER BY month) FILTER (WHERE state = 'OVERDUE') AS overdue_months
    FROM bills
    WHERE bills.account_id = accounts.account_id AND bills.state <> 'PAID'
) AS unpaid ON true
WHERE accounts.account_id = ANY ($1::text[]);

-- accounts_after --
-- The next $2 accounts after account $1.
SELECT account_id, currency FROM accounts WHERE account_id > $1 ORDER BY account_id LIMIT $2;

-- notify_status_changed --
-- Tells every replica, when the transaction commits, that the status of these accounts (separated by commas) changed.
SELECT pg_notify('metering_status_changed', $1);

-- notify_heartbeat --
-- Tells the listener on channel $1, which is oneself, that notifications arrive; returns whether the server takes writes.
SELECT current_setting('transaction_read_only') = 'off' AS writable, pg_notify($1, $2);

-- price_plan_assignments --
-- The price plan assignments of the given accounts, ascending by month.
SELECT account_id, from_month, price_plan_id
FROM price_plan_assignments
WHERE account_id = ANY ($1::text[])
ORDER BY account_id, from_month;

-- assign_price_plan --
-- Assigns plan $3 to account $1 from month $2 on, in place of one that starts in the same month.
INSERT INTO price_plan_assignments (account_id, from_month, price_plan_id)
VALUES ($1, $2, $3)
ON CONFLICT (account_id, from_month) DO UPDATE SET price_plan_id = excluded.price_plan_id;

-- newest_price_plans --
-- The newest versions of the given price plans; unknown ones are left out.
SELECT DISTINCT ON (price_plan_id) price_plan_id, version, currency, prices
FROM price_plans
WHERE price_plan_id = ANY ($1::text[])
ORDER BY price_plan_id, version DESC;

-- billed_price_plans --
-- The price plans, in their versions, by which calls of the given accounts and months ($1, $2: pairs) stand on bills
-- before month $3; of several, the newest version.
SELECT DISTINCT ON (line.account_id, line.occurred_month) line.account_id, line.occurred_month, plan.price_plan_id,
    plan.version, plan.currency, plan.prices
FROM unnest($1::text[], $2::date[]) AS pair (account_id, occurred_month)
JOIN bill_lines AS line ON line.account_id = pair.account_id AND line.occurred_month = pair.occurred_month
    AND line.month >= pair.occurred_month AND line.month < $3
JOIN price_plans AS plan ON plan.price_plan_id = line.price_plan_id AND plan.version = line.price_plan_version
ORDER BY line.account_id, line.occurred_month, plan.version DESC;

-- list_price_plans --
-- The newest versions of the price plans after plan $1, at most $2.
SELECT DISTINCT ON (price_plan_id) price_plan_id, version, currency, prices
FROM price_plans
WHERE price_plan_id > $1
ORDER BY price_plan_id, version DESC
LIMIT $2;

-- price_plan_version --
-- One version of a price plan.
SELECT price_plan_id, version, currency, prices FROM price_plans WHERE price_plan_id = $1 AND version = $2;

-- lock_prices --
-- Makes changes of prices wait for each other, and for bills that are just being made by the present prices, until the
-- transaction ends.
SELECT pg_advisory_xact_lock(1149, 0);

-- insert_price_plan --
-- Stores a new version of a price plan.
INSERT INTO price_plans (price_plan_id, version, currency, prices, created_at) VALUES ($1, $2, $3, $4, $5);
