-- begin_act --
-- Notes an act that is about to be done: begun at $1, caller $2, role $3, peer $4, method $5, account $6, request $7.
INSERT INTO administrative_acts (begun_at, caller, role, peer, method, account_id, request)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING act_id;

-- end_act --
-- Notes how act $1 ended: at $2, with outcome $3.
INSERT INTO administrative_outcomes (act_id, ended_at, outcome) VALUES ($1, $2, $3);

-- last_acts --
-- The last $2 acts, newest first, of all accounts or of account $1.
SELECT act.act_id, act.begun_at, act.caller, act.role, act.peer, act.method, act.account_id, act.request,
    ended.ended_at, ended.outcome
FROM administrative_acts AS act LEFT JOIN administrative_outcomes AS ended USING (act_id)
WHERE $1::text IS NULL OR act.account_id = $1
ORDER BY act.act_id DESC
LIMIT $2;
