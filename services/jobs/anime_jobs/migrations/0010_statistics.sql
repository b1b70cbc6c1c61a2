-- migrate:up
-- A stretch of time is looked for among all attempts.
CREATE INDEX attempts_ended ON attempts (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX attempts_begun ON attempts (started_at) WHERE number = 1;
CREATE INDEX attempts_repeated ON attempts (dispatched_at) WHERE number > 1;

-- migrate:down
DROP INDEX attempts_repeated;
DROP INDEX attempts_begun;
DROP INDEX attempts_ended;
