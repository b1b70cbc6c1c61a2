-- migrate:up

ALTER TABLE jobs ADD COLUMN reached jsonb;
COMMENT ON COLUMN jobs.reached IS 'How far the last attempt came, of a job that failed or was cancelled in work.';

-- migrate:down

ALTER TABLE jobs DROP COLUMN reached;
