-- audit_usage --
-- Usage against the raw calls it was counted from.
SELECT account_id,
    format('%s calls of %s%s on %s, billed in %s', coalesce(counted.calls, 0), api,
        CASE result_code WHEN '' THEN '' ELSE ' (' || result_code || ')' END, occurred_on,
        to_char(billing_month, 'YYYY-MM')) AS found,
    format('%s recorded calls', coalesce(recorded.calls, 0)) AS expected
FROM (
    SELECT account_id, billing_month, occurred_on, api, result_code, sum(calls) AS calls
    FROM usage
    GROUP BY account_id, billing_month, occurred_on, api, result_code
) AS counted
FULL JOIN (
    SELECT account_id, billing_month, occurred_on, api, result_code, count(*) AS calls
    FROM calls
    GROUP BY account_id, billing_month, occurred_on, api, result_code
) AS recorded USING (account_id, billing_month, occurred_on, api, result_code)
WHERE counted.calls IS DISTINCT FROM recorded.calls
ORDER BY account_id;

-- audit_calls --
-- Calls that stand on the bill of a month before their own, or that belong to no account.
SELECT calls.account_id,
    format('call %s of %s on the bill of %s', calls.call_id, calls.occurred_on, to_char(billing_month, 'YYYY-MM'))
        AS found,
    CASE WHEN accounts.account_id IS NULL THEN 'an activated account' ELSE 'its own month or a later one' END
        AS expected
FROM calls
LEFT JOIN accounts ON accounts.account_id = calls.account_id
WHERE accounts.account_id IS NULL OR calls.billing_month < date_trunc('month', calls.occurred_on)
ORDER BY calls.account_id;

-- audit_bill_calls --
-- Bills against the usage of their month: every call of a billed account is on a line, and nothing else is.
SELECT account_id,
    format('%s calls of %s from %s on the bill of %s', coalesce(billed.calls, 0), api,
        to_char(occurred_month, 'YYYY-MM'), to_char(month, 'YYYY-MM')) AS found,
    format('%s counted calls', coalesce(counted.calls, 0)) AS expected
FROM (
    SELECT account_id, month, occurred_month, api, calls FROM bill_lines
) AS billed
FULL JOIN (
    SELECT usage.account_id, usage.billing_month AS month, date_trunc('month', usage.occurred_on)::date AS occurred_month,
        usage.api, sum(usage.calls) AS calls
    FROM usage
    JOIN bills ON bills.account_id = usage.account_id AND bills.month = usage.billing_month
    GROUP BY usage.account_id, usage.billing_month, date_trunc('month', usage.occurred_on), usage.api
) AS counted USING (account_id, month, occurred_month, api)
WHERE billed.calls IS DISTINCT FROM counted.calls
ORDER BY account_id;

-- audit_bill_months --
-- Bills of months that are not closed.
SELECT bills.account_id, format('a bill of %s', to_char(bills.month, 'YYYY-MM')) AS found,
    'the month is open: no bill' AS expected
FROM bills
LEFT JOIN months ON months.month = bills.month
WHERE months.month IS NULL
ORDER BY bills.account_id;

-- audit_bill_lines --
-- Amounts of bill lines against their parts. Rounding is half up to the minor units $1 of the currencies $2.
SELECT line.account_id,
    format('%s of %s on the bill of %s: %s calls charged, %s, rounded %s', line.api,
        to_char(line.occurred_month, 'YYYY-MM'), to_char(line.month, 'YYYY-MM'), line.charged_calls, line.exact_amount,
        line.amount) AS found,
    format('%s calls charged, %s, rounded %s', parts.quantity, parts.amount, round(parts.amount, currency.minor_unit))
        AS expected
FROM bill_lines AS line
JOIN bills ON bills.account_id = line.account_id AND bills.month = line.month
LEFT JOIN unnest($1::integer[], $2::text[]) AS currency (minor_unit, code) ON currency.code = bills.currency
CROSS JOIN LATERAL (
    SELECT coalesce(sum((part ->> 0)::numeric), 0) AS quantity,
        coalesce(sum((part ->> 0)::numeric * (part ->> 1)::numeric), 0) AS amount
    FROM jsonb_array_elements(line.parts) AS part
) AS parts
WHERE (parts.quantity, parts.amount, round(parts.amount, currency.minor_unit))
    IS DISTINCT FROM (line.charged_calls::numeric, line.exact_amount, line.amount)
ORDER BY line.account_id;

-- audit_rated_lines --
-- Every bill line with the usage that it was rated from (by result code: calls on this bill, calls on earlier ones) and
-- the price plan it names, if that is the one which the account has in the month of the calls.
SELECT line.account_id, line.month, line.occurred_month, line.api, line.calls, line.charged_calls, line.parts,
    line.exact_amount, line.amount, line.price_plan_id, line.price_plan_version,
    plan.version, plan.currency, plan.prices, counted.result_codes, counted.calls_by_code, counted.earlier_by_code
FROM bill_lines AS line
LEFT JOIN price_plans AS plan ON plan.price_plan_id = line.price_plan_id AND plan.version = line.price_plan_version
    AND line.price_plan_id = (
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
        GROUP BY line.account_id, line.month, line.occurred_month, line.api, usage.result_code
    ) AS by_code
    GROUP BY account_id, month, occurred_month, api
) AS counted USING (account_id, month, occurred_month, api)
ORDER BY line.account_id, line.month;

-- audit_bills --
-- Bills against their lines and the deductions made for them, their account's currency and the day they are due.
SELECT bills.account_id,
    format('bill of %s: total %s %s, deducted %s, due %s', to_char(bills.month, 'YYYY-MM'), bills.total, bills.currency,
        bills.deducted, bills.due_date) AS found,
    format('lines %s %s, deductions %s, due %s', coalesce(line.amount, 0), accounts.currency,
        coalesce(deduction.amount, 0), due.day) AS expected
FROM bills
JOIN accounts ON accounts.account_id = bills.account_id
CROSS JOIN LATERAL (SELECT (bills.month + interval '1 month 2 days')::date AS day) AS due
LEFT JOIN (
    SELECT account_id, month, sum(amount) AS amount FROM bill_lines GROUP BY account_id, month
) AS line ON line.account_id = bills.account_id AND line.month = bills.month
LEFT JOIN (
    SELECT account_id, bill_month, -sum(amount) AS amount
    FROM ledger_entries
    WHERE kind = 'DEDUCTION'
    GROUP BY account_id, bill_month
) AS deduction ON deduction.account_id = bills.account_id AND deduction.bill_month = bills.month
WHERE (bills.total, bills.deducted, bills.currency, bills.due_date)
    IS DISTINCT FROM (coalesce(line.amount, 0), coalesce(deduction.amount, 0), accounts.currency, due.day)
ORDER BY bills.account_id;

-- audit_balances --
-- Balances against the ledger, whose entries count from 1 without gaps.
SELECT accounts.account_id,
    format('balance %s, last entry %s', accounts.balance, coalesce(ledger.last_entry_id, 0)) AS found,
    format('entries add up to %s, there are %s', coalesce(ledger.balance, 0), coalesce(ledger.entries, 0)) AS expected
FROM accounts
LEFT JOIN (
    SELECT account_id, sum(amount) AS balance, count(*) AS entries, max(entry_id) AS last_entry_id
    FROM ledger_entries
    GROUP BY account_id
) AS ledger ON ledger.account_id = accounts.account_id
WHERE accounts.balance <> coalesce(ledger.balance, 0) OR ledger.entries <> ledger.last_entry_id
ORDER BY accounts.account_id;

-- audit_states --
-- Accounts are suspended if, and only if, a bill is overdue.
SELECT accounts.account_id, accounts.state AS found, expected.state AS expected
FROM accounts
CROSS JOIN LATERAL (
    SELECT CASE WHEN EXISTS (
        SELECT FROM bills WHERE bills.account_id = accounts.account_id AND bills.state = 'OVERDUE'
    ) THEN 'SUSPENDED' ELSE 'ACTIVE' END AS state
) AS expected
WHERE accounts.state <> expected.state
ORDER BY accounts.account_id;

-- audit_totals --
-- Where the recorded calls are. Those on a bill of their own month, those carried to a later month, those in an open
-- month, and those of closed months that could not be billed because an api has no price, are all of them.
SELECT
    coalesce(sum(calls), 0)::bigint AS recorded,
    coalesce(sum(calls) FILTER (WHERE own AND billed), 0)::bigint AS billed,
    coalesce(sum(calls) FILTER (WHERE NOT own), 0)::bigint AS carried,
    coalesce(sum(calls) FILTER (WHERE own AND NOT closed), 0)::bigint AS open,
    coalesce(sum(calls) FILTER (WHERE own AND closed AND NOT billed), 0)::bigint AS unrated
FROM (
    SELECT recorded.own, recorded.calls, months.month IS NOT NULL AS closed, bills.account_id IS NOT NULL AS billed
    FROM (
        SELECT account_id, billing_month, billing_month = date_trunc('month', occurred_on) AS own, count(*) AS calls
        FROM calls
        GROUP BY account_id, billing_month, billing_month = date_trunc('month', occurred_on)
    ) AS recorded
    LEFT JOIN months ON months.month = recorded.billing_month
    LEFT JOIN bills ON bills.account_id = recorded.account_id AND bills.month = recorded.billing_month
) AS placed;
