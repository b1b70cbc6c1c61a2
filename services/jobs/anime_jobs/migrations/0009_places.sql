-- migrate:up
-- Waiting jobs of a project can be put before or after each other; and when each was first told to end is kept.
ALTER TABLE jobs
    ADD COLUMN place double precision,
    ADD COLUMN foreseen_at timestamptz,
    ADD COLUMN foreseen_end timestamptz,
    ADD CONSTRAINT jobs_foreseen_check CHECK ((foreseen_at IS NULL) = (foreseen_end IS NULL));
UPDATE jobs SET place = extract(epoch FROM created_at) + coalesce(batch_index, 0) * 1e-5;
ALTER TABLE jobs ALTER COLUMN place SET NOT NULL, ALTER COLUMN place SET DEFAULT extract(epoch FROM now());
COMMENT ON COLUMN jobs.place IS 'Orders the jobs of a project and class: seconds since 1970 of the submit, or where it was moved to.';
COMMENT ON COLUMN jobs.foreseen_end IS 'When the job was to end, as it was told first, at foreseen_at.';
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (priority, project_id, place, id) WHERE state = 'queued';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM jobs WHERE foreseen_at IS NOT NULL
                OR (state = 'queued' AND abs(place - extract(epoch FROM created_at)) > 1))
    ) THEN
        RAISE EXCEPTION 'refused: the order of waiting jobs, and when jobs were told to end would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (priority, project_id, created_at, id) WHERE state = 'queued';
ALTER TABLE jobs DROP CONSTRAINT jobs_foreseen_check, DROP COLUMN foreseen_end, DROP COLUMN foreseen_at, DROP COLUMN place;
