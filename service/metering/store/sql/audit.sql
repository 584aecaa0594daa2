-- lock_days --
-- Keeps days of raw calls from being dropped until the transaction ends; before its snapshot is taken.
LOCK TABLE ONLY calls IN ACCESS SHARE MODE;

-- join_whole_sets --
-- Joins sets of rows as a whole until the transaction ends: row by row, which is what is planned for tables that were
-- empty when they were last analyzed, takes minutes.
SET LOCAL enable_nestloop = off;

-- audit_accounts --
-- The first $3 accounts from $1 to before $2.
SELECT account_id FROM accounts WHERE account_id >= $1 AND account_id < $2 ORDER BY account_id LIMIT $3;

-- count_accounts --
-- How many accounts there are.
SELECT count(*) AS accounts FROM accounts;

-- audit_calls --
-- The raw calls of the accounts from $1 to before $2 on the bills of the months $3 to $4: how many each account has, and
-- where they are not what was counted, or stand where they do not belong. $5 the days that have raw calls, $6 when each
-- begins, $7 when it ends. One look at each call, whatever it is looked at for. Of days that were dropped there is
-- nothing but the counts: these are taken as they are.
WITH recorded AS MATERIALIZED (
    SELECT of_day.*
    FROM unnest($5::date[], $6::timestamptz[], $7::timestamptz[]) AS day (day, begins, ends)
    CROSS JOIN LATERAL (
        SELECT account_id, billing_month, occurred_on, api, result_code, count(*) AS calls,
            min(occurred_at) < day.begins OR max(occurred_at) >= day.ends AS of_another_day
        FROM calls
        WHERE occurred_on = day.day AND account_id >= $1 AND account_id < $2 AND billing_month BETWEEN $3 AND $4
        GROUP BY account_id, billing_month, occurred_on, api, result_code
    ) AS of_day
), counted AS MATERIALIZED (
    SELECT usage.account_id, usage.billing_month, usage.occurred_on, usage.api, usage.result_code,
        sum(usage.calls) AS calls, dropped_days.day IS NOT NULL AS dropped
    FROM usage
    LEFT JOIN dropped_days ON dropped_days.day = usage.occurred_on
    WHERE usage.account_id >= $1 AND usage.account_id < $2 AND usage.billing_month BETWEEN $3 AND $4
    GROUP BY usage.account_id, usage.billing_month, usage.occurred_on, usage.api, usage.result_code, dropped_days.day
)
SELECT 'USAGE' AS kind, account_id,
    format('%s calls of %s%s on %s, billed in %s', coalesce(counted.calls, 0), api,
        CASE result_code WHEN '' THEN '' ELSE ' (' || result_code || ')' END, occurred_on,
        to_char(billing_month, 'YYYY-MM')) AS found,
    format('%s recorded calls', coalesce(recorded.calls, 0)) AS expected,
    NULL::bigint AS recorded, NULL::bigint AS dropped
FROM (SELECT * FROM counted WHERE NOT dropped) AS counted
FULL JOIN recorded USING (account_id, billing_month, occurred_on, api, result_code)
WHERE counted.calls IS DISTINCT FROM recorded.calls
UNION ALL
SELECT 'CALLS', recorded.account_id,
    format('%s calls of %s on %s, on the bill of %s', recorded.calls, recorded.api, recorded.occurred_on,
        to_char(recorded.billing_month, 'YYYY-MM')),
    CASE
        WHEN accounts.account_id IS NULL THEN 'an activated account'
        WHEN recorded.of_another_day THEN 'calls that occurred on that day'
        ELSE 'the bill of their own month or, if that was closed, of the next one that was not'
    END,
    NULL, NULL
FROM recorded
LEFT JOIN accounts ON accounts.account_id = recorded.account_id
CROSS JOIN LATERAL (SELECT date_trunc('month', recorded.occurred_on)::date AS month) AS own
WHERE accounts.account_id IS NULL OR recorded.of_another_day OR recorded.billing_month < own.month
    -- A call is carried past closed months only.
    OR recorded.billing_month > own.month AND (
        SELECT count(*) FROM months WHERE months.month >= own.month AND months.month < recorded.billing_month
    ) IS DISTINCT FROM (extract(year FROM recorded.billing_month) - extract(year FROM own.month)) * 12
        + extract(month FROM recorded.billing_month) - extract(month FROM own.month)
UNION ALL
SELECT 'CALLS', counted.account_id,
    format('%s calls of %s, on the bill of %s: dropped', counted.calls, counted.occurred_on,
        to_char(counted.billing_month, 'YYYY-MM')),
    'raw calls, for the month is open', NULL, NULL
FROM counted
LEFT JOIN months ON months.month = counted.billing_month
WHERE counted.dropped AND months.month IS NULL
UNION ALL
SELECT NULL, account_id, NULL, NULL, sum(calls)::bigint, coalesce(sum(calls) FILTER (WHERE dropped), 0)::bigint
FROM (
    SELECT account_id, calls, false AS dropped FROM recorded
    UNION ALL
    SELECT account_id, calls, true FROM counted WHERE dropped
) AS kept
GROUP BY account_id;

-- audit_places --
-- Where the calls of the accounts from $1 to before $2 on the bills of the months $3 to $4 are, by the lines of the
-- bills and, where there is none, by usage: on a bill of their own month, carried to a later one, in an open month, or
-- in a closed one that could not be billed because an api has no price.
SELECT account_id,
    coalesce(sum(calls) FILTER (WHERE own AND billed), 0)::bigint AS billed,
    coalesce(sum(calls) FILTER (WHERE NOT own), 0)::bigint AS carried,
    coalesce(sum(calls) FILTER (WHERE own AND NOT billed AND NOT closed), 0)::bigint AS open,
    coalesce(sum(calls) FILTER (WHERE own AND NOT billed AND closed), 0)::bigint AS unrated
FROM (
    SELECT account_id, calls, occurred_month = month AS own, true AS billed, true AS closed
    FROM bill_lines
    WHERE account_id >= $1 AND account_id < $2 AND month BETWEEN $3 AND $4
    UNION ALL
    SELECT usage.account_id, usage.calls, date_trunc('month', usage.occurred_on) = usage.billing_month, false,
        months.month IS NOT NULL
    FROM usage
    LEFT JOIN months ON months.month = usage.billing_month
    LEFT JOIN bills ON bills.account_id = usage.account_id AND bills.month = usage.billing_month
        AND bills.account_id >= $1 AND bills.account_id < $2
    WHERE usage.account_id >= $1 AND usage.account_id < $2 AND usage.billing_month BETWEEN $3 AND $4
        AND bills.account_id IS NULL
) AS placed
GROUP BY account_id;

-- audit_bill_calls --
-- Bills against the usage of their month: every call of a billed account is on a line, and nothing else is. Of the
-- accounts from $1 to before $2 and the months $3 to $4.
SELECT account_id,
    format('%s calls of %s from %s on the bill of %s', coalesce(billed.calls, 0), api,
        to_char(occurred_month, 'YYYY-MM'), to_char(month, 'YYYY-MM')) AS found,
    format('%s counted calls', coalesce(counted.calls, 0)) AS expected
FROM (
    SELECT account_id, month, occurred_month, api, calls
    FROM bill_lines
    WHERE account_id >= $1 AND account_id < $2 AND month BETWEEN $3 AND $4
) AS billed
FULL JOIN (
    SELECT usage.account_id, usage.billing_month AS month, date_trunc('month', usage.occurred_on)::date AS occurred_month,
        usage.api, sum(usage.calls) AS calls
    FROM usage
    JOIN bills ON bills.account_id = usage.account_id AND bills.month = usage.billing_month
        AND bills.account_id >= $1 AND bills.account_id < $2
    WHERE usage.account_id >= $1 AND usage.account_id < $2 AND usage.billing_month BETWEEN $3 AND $4
    GROUP BY usage.account_id, usage.billing_month, date_trunc('month', usage.occurred_on), usage.api
) AS counted USING (account_id, month, occurred_month, api)
WHERE billed.calls IS DISTINCT FROM counted.calls;

-- audit_bill_months --
-- Bills of months that are not closed. Of the accounts from $1 to before $2 and the months $3 to $4.
SELECT bills.account_id, format('a bill of %s', to_char(bills.month, 'YYYY-MM')) AS found,
    'the month is open: no bill' AS expected
FROM bills
LEFT JOIN months ON months.month = bills.month
WHERE bills.account_id >= $1 AND bills.account_id < $2 AND bills.month BETWEEN $3 AND $4 AND months.month IS NULL;

-- audit_digests --
-- Digests against the raw calls and the lines of their bills, of the accounts from $1 to before $2 and the months $3 to
-- $4. $5 the days that have raw calls. Where some of a bill's days were dropped, nothing is left to compare but the
-- number of calls; and of bills of more than $6 calls, whose digests are made by audit_large_bills.
WITH digested AS MATERIALIZED (
    SELECT account_id, month, calls, digest, calls <= $6::bigint AND NOT EXISTS (
        SELECT FROM dropped_days
        JOIN usage ON usage.occurred_on = dropped_days.day
        WHERE usage.account_id = bill_digests.account_id AND usage.billing_month = bill_digests.month
    ) AS checkable
    FROM bill_digests
    WHERE account_id >= $1 AND account_id < $2 AND month BETWEEN $3 AND $4
)
SELECT digested.account_id,
    format('digest of the bill of %s: %s calls%s', to_char(digested.month, 'YYYY-MM'), digested.calls,
        CASE WHEN digested.checkable THEN ', SHA-256 ' || encode(digested.digest, 'hex') ELSE '' END) AS found,
    format('%s calls on its lines%s', coalesce(billed.calls, 0),
        CASE WHEN digested.checkable THEN format(', %s raw calls, SHA-256 %s', coalesce(recorded.calls, 0),
            encode(recorded.digest, 'hex')) ELSE '' END) AS expected
FROM digested
LEFT JOIN (
    SELECT account_id, month, sum(calls) AS calls
    FROM bill_lines
    WHERE account_id >= $1 AND account_id < $2 AND month BETWEEN $3 AND $4
    GROUP BY account_id, month
) AS billed ON billed.account_id = digested.account_id AND billed.month = digested.month
LEFT JOIN (
    SELECT of_day.account_id, of_day.billing_month AS month, count(*) AS calls,
        sha256(convert_to(string_agg(of_day.line, '' ORDER BY of_day.occurred_on, of_day.call_id), 'UTF8')) AS digest
    FROM unnest($5::date[]) AS day
    CROSS JOIN LATERAL (
        SELECT account_id, billing_month, occurred_on, call_id,
            call_line(occurred_on, call_id, occurred_at, account_id, api, result_code) || E'\n' AS line
        FROM calls
        WHERE occurred_on = day AND account_id >= $1 AND account_id < $2 AND billing_month BETWEEN $3 AND $4
        -- A look at each day: without this, the planner may join the days to all calls there are.
        OFFSET 0
    ) AS of_day
    JOIN digested ON digested.account_id = of_day.account_id AND digested.month = of_day.billing_month
    WHERE digested.checkable
    GROUP BY of_day.account_id, of_day.billing_month
) AS recorded ON recorded.account_id = digested.account_id AND recorded.month = digested.month
WHERE digested.calls IS DISTINCT FROM billed.calls
    OR digested.checkable AND (digested.calls, digested.digest) IS DISTINCT FROM (recorded.calls, recorded.digest);

-- audit_large_bills --
-- The bills of more than $5 calls that have a digest and all of their raw calls, of the accounts from $1 to before $2 and
-- the months $3 to $4.
SELECT account_id, month, calls, digest
FROM bill_digests
WHERE account_id >= $1 AND account_id < $2 AND month BETWEEN $3 AND $4 AND calls > $5::bigint AND NOT EXISTS (
    SELECT FROM dropped_days
    JOIN usage ON usage.occurred_on = dropped_days.day
    WHERE usage.account_id = bill_digests.account_id AND usage.billing_month = bill_digests.month
);

-- audit_issued_bills --
-- Digests of bills that are not there: the bill was issued, and is missing. Of the accounts from $1 to before $2 and the
-- months $3 to $4.
SELECT digest.account_id, 'no bill' AS found, format('the bill of %s', to_char(digest.month, 'YYYY-MM')) AS expected
FROM bill_digests AS digest
LEFT JOIN bills ON bills.account_id = digest.account_id AND bills.month = digest.month
WHERE digest.account_id >= $1 AND digest.account_id < $2 AND digest.month BETWEEN $3 AND $4 AND bills.account_id IS NULL;

-- audit_rated_lines --
-- Every bill line with the usage that it was rated from (by result code: calls on this bill, calls on earlier ones), the
-- currency of its bill, and the price plan it names, if that is the one which the account has in the month of the calls.
-- Of the accounts from $1 to before $2 and the months $3 to $4.
SELECT line.account_id, line.month, line.occurred_month, line.api, line.calls, line.charged_calls, line.parts,
    line.exact_amount, line.amount, line.price_plan_id, line.price_plan_version, bills.currency AS bill_currency,
    plan.version, plan.currency, plan.prices, counted.result_codes, counted.calls_by_code, counted.earlier_by_code
FROM bill_lines AS line
LEFT JOIN bills ON bills.account_id = line.account_id AND bills.month = line.month
LEFT JOIN price_plans AS plan ON plan.price_plan_id = line.price_plan_id AND plan.version = line.price_plan_version
    AND plan.currency = bills.currency AND line.price_plan_id = (
        SELECT assigned.price_plan_id
        FROM price_plan_assignments AS assigned
        WHERE assigned.account_id = line.account_id AND assigned.from_month <= line.occurred_month
        ORDER BY assigned.from_month DESC
        LIMIT 1
    )
LEFT JOIN (
    SELECT account_id, month, occurred_month, api, array_agg(result_code) AS result_codes,
        array_agg(calls) AS calls_by_code, array_agg(earlier) AS earlier_by_code
    FROM (
        SELECT line.account_id, line.month, line.occurred_month, line.api, usage.result_code,
            coalesce(sum(usage.calls) FILTER (WHERE usage.billing_month = line.month), 0)::bigint AS calls,
            coalesce(sum(usage.calls) FILTER (WHERE usage.billing_month < line.month), 0)::bigint AS earlier
        FROM bill_lines AS line
        JOIN usage ON usage.account_id = line.account_id AND usage.api = line.api
            AND usage.billing_month <= line.month
            AND date_trunc('month', usage.occurred_on)::date = line.occurred_month
        WHERE line.account_id >= $1 AND line.account_id < $2 AND line.month BETWEEN $3 AND $4
            AND usage.account_id >= $1 AND usage.account_id < $2
        GROUP BY line.account_id, line.month, line.occurred_month, line.api, usage.result_code
    ) AS by_code
    GROUP BY account_id, month, occurred_month, api
) AS counted ON counted.account_id = line.account_id AND counted.month = line.month
    AND counted.occurred_month = line.occurred_month AND counted.api = line.api
WHERE line.account_id >= $1 AND line.account_id < $2 AND line.month BETWEEN $3 AND $4
ORDER BY line.account_id, line.month;

-- audit_bills --
-- Bills against their lines and the deductions made for them, their account's currency, the day they are due, and what
-- their state says. Of the accounts from $1 to before $2 and the months $3 to $4; today is $5. Once a monthly run on the
-- due date or later has done all its work, a bill is paid or overdue, if it was issued well before.
SELECT bills.account_id,
    format('bill of %s: total %s %s, deducted %s, due %s, %s', to_char(bills.month, 'YYYY-MM'), bills.total,
        bills.currency, bills.deducted, bills.due_date, bills.state) AS found,
    format('lines %s %s, deductions %s, due %s, %s', coalesce(line.amount, 0), coalesce(accounts.currency, 'no account'),
        coalesce(deduction.amount, 0), due.day, expected.state) AS expected
FROM bills
LEFT JOIN accounts ON accounts.account_id = bills.account_id
CROSS JOIN LATERAL (SELECT (bills.month + interval '1 month 2 days')::date AS day) AS due
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN bills.deducted = bills.total THEN 'PAID'
        WHEN $5::date < due.day THEN 'ISSUED'
        WHEN bills.state = 'PAID' OR bills.state = 'ISSUED' AND EXISTS (
            SELECT FROM monthly_runs
            WHERE finished_at IS NOT NULL AND failures = 0 AND run_on >= due.day
                AND started_at > bills.issued_at + interval '1 hour'
        ) THEN 'OVERDUE'
        ELSE bills.state
    END AS state
) AS expected
LEFT JOIN (
    SELECT account_id, month, sum(amount) AS amount
    FROM bill_lines
    WHERE account_id >= $1 AND account_id < $2 AND month BETWEEN $3 AND $4
    GROUP BY account_id, month
) AS line ON line.account_id = bills.account_id AND line.month = bills.month
LEFT JOIN (
    SELECT account_id, bill_month, -sum(amount) AS amount
    FROM ledger_entries
    WHERE account_id >= $1 AND account_id < $2 AND bill_month BETWEEN $3 AND $4 AND kind = 'DEDUCTION'
    GROUP BY account_id, bill_month
) AS deduction ON deduction.account_id = bills.account_id AND deduction.bill_month = bills.month
WHERE bills.account_id >= $1 AND bills.account_id < $2 AND bills.month BETWEEN $3 AND $4
    AND (bills.total, bills.deducted, bills.currency, bills.due_date, bills.state)
    IS DISTINCT FROM (coalesce(line.amount, 0), coalesce(deduction.amount, 0), accounts.currency, due.day, expected.state);

-- audit_entries --
-- Ledger entries that nothing of ours could have booked. Rounding is to the minor units $3 of the currencies $4. Of the
-- accounts from $1 to before $2.
SELECT entry.account_id,
    format('entry %s: %s of %s %s, balance %s', entry.entry_id, entry.kind, entry.amount,
        coalesce(entry.payment_id, 'for the bill of ' || to_char(entry.bill_month, 'YYYY-MM')), entry.balance) AS found,
    'a payment with an id of its own that brings money in, or a deduction that takes it out for a bill; never below 0'
        AS expected
FROM (
    SELECT account_id, entry_id, kind, amount, payment_id, bill_month,
        sum(amount) OVER (PARTITION BY account_id ORDER BY entry_id) AS balance,
        CASE WHEN payment_id IS NOT NULL THEN count(*) OVER (PARTITION BY account_id, payment_id) END AS bookings
    FROM ledger_entries
    WHERE account_id >= $1 AND account_id < $2
) AS entry
LEFT JOIN accounts ON accounts.account_id = entry.account_id
LEFT JOIN unnest($3::integer[], $4::text[]) AS currency (minor_unit, code) ON currency.code = accounts.currency
LEFT JOIN bills ON bills.account_id = entry.account_id AND bills.month = entry.bill_month
WHERE entry.balance < 0 OR entry.amount IS DISTINCT FROM round(entry.amount, currency.minor_unit)
    OR NOT CASE entry.kind
        WHEN 'PAYMENT' THEN entry.amount > 0 AND entry.bill_month IS NULL AND coalesce(entry.bookings, 0) = 1
        WHEN 'DEDUCTION' THEN entry.amount < 0 AND entry.payment_id IS NULL AND bills.account_id IS NOT NULL
        ELSE false
    END;

-- audit_balances --
-- Balances against the ledger, whose entries count from 1 without gaps. Of the accounts from $1 to before $2.
SELECT account_id,
    format('balance %s, last entry %s', coalesce(accounts.balance::text, 'of no account'),
        coalesce(ledger.last_entry_id, 0)) AS found,
    format('entries add up to %s, there are %s', coalesce(ledger.balance, 0), coalesce(ledger.entries, 0)) AS expected
FROM (SELECT account_id, balance FROM accounts WHERE account_id >= $1 AND account_id < $2) AS accounts
FULL JOIN (
    SELECT account_id, sum(amount) AS balance, count(*) AS entries, max(entry_id) AS last_entry_id
    FROM ledger_entries
    WHERE account_id >= $1 AND account_id < $2
    GROUP BY account_id
) AS ledger USING (account_id)
WHERE accounts.balance IS DISTINCT FROM coalesce(ledger.balance, 0) OR ledger.entries <> ledger.last_entry_id;

-- audit_states --
-- Accounts are suspended if, and only if, a bill is overdue; and their status was counted up for each bill and payment.
-- Of the accounts from $1 to before $2.
SELECT accounts.account_id, format('%s, status version %s', accounts.state, accounts.status_version) AS found,
    format('%s, status version %s or more', expected.state, expected.status_version) AS expected
FROM accounts
LEFT JOIN (
    SELECT account_id, count(*) AS issued, bool_or(state = 'OVERDUE') AS overdue
    FROM bills
    WHERE account_id >= $1 AND account_id < $2
    GROUP BY account_id
) AS bill ON bill.account_id = accounts.account_id
LEFT JOIN (
    SELECT account_id, count(*) AS booked
    FROM ledger_entries
    WHERE account_id >= $1 AND account_id < $2 AND kind = 'PAYMENT'
    GROUP BY account_id
) AS payment ON payment.account_id = accounts.account_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN bill.overdue THEN 'SUSPENDED' ELSE 'ACTIVE' END AS state,
        1 + coalesce(bill.issued, 0) + coalesce(payment.booked, 0) AS status_version
) AS expected
WHERE accounts.account_id >= $1 AND accounts.account_id < $2
    AND (accounts.state <> expected.state OR accounts.status_version < expected.status_version);

-- audit_prices --
-- Assignments of price plans that are not there, are in another currency than the account, or are of no account. Of the
-- accounts from $1 to before $2.
SELECT assigned.account_id,
    format('price plan %s from %s on, in %s', assigned.price_plan_id,
        CASE WHEN isfinite(assigned.from_month) THEN to_char(assigned.from_month, 'YYYY-MM') ELSE 'the beginning' END,
        coalesce(plan.currency, 'no version')) AS found,
    format('one in %s', coalesce(accounts.currency, 'the currency of an account')) AS expected
FROM price_plan_assignments AS assigned
LEFT JOIN accounts ON accounts.account_id = assigned.account_id
LEFT JOIN LATERAL (
    SELECT currency FROM price_plans WHERE price_plan_id = assigned.price_plan_id ORDER BY version DESC LIMIT 1
) AS plan ON true
WHERE assigned.account_id >= $1 AND assigned.account_id < $2 AND plan.currency IS DISTINCT FROM accounts.currency;

-- audit_rejected --
-- Rejected calls that are said to be recorded, and are not among the raw calls of their day, if there are any. Of the
-- accounts from $1 to before $2; $3 the days that have raw calls, $4 when each begins, $5 when it ends.
SELECT rejected.account_id,
    format('rejected call %s of %s, recorded on the bill of %s', rejected.call_id,
        to_char(rejected.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char(rejected.billing_month, 'YYYY-MM')) AS found,
    coalesce('on the bill of ' || to_char(calls.billing_month, 'YYYY-MM'), 'not recorded') AS expected
FROM rejected_calls AS rejected
JOIN unnest($3::date[], $4::timestamptz[], $5::timestamptz[]) AS day (day, begins, ends)
    ON day.begins <= rejected.occurred_at AND day.ends > rejected.occurred_at
LEFT JOIN calls ON calls.occurred_on = day.day AND calls.account_id = rejected.account_id
    AND calls.call_id = rejected.call_id
WHERE rejected.account_id >= $1 AND rejected.account_id < $2 AND rejected.recorded_at IS NOT NULL
    AND calls.billing_month IS DISTINCT FROM rejected.billing_month;
