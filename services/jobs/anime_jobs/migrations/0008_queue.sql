-- migrate:up
-- The whole queue, or a project, can be held back; a project can be kept to so many jobs at a time.
CREATE TABLE queue (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    paused_since timestamptz,
    reason text NOT NULL DEFAULT ''
);
INSERT INTO queue DEFAULT VALUES;

ALTER TABLE projects
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN max_running integer CHECK (max_running >= 1);
CREATE INDEX projects_held ON projects (id) WHERE paused OR max_running IS NOT NULL;

-- What failed is looked for to be tried again, by why it failed.
CREATE INDEX jobs_failed ON jobs ((error ->> 'code'), created_at) WHERE state = 'failed';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM queue WHERE paused_since IS NOT NULL)
        OR EXISTS (SELECT FROM projects WHERE paused OR max_running IS NOT NULL)
    ) THEN
        RAISE EXCEPTION 'refused: what is held back would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
DROP INDEX jobs_failed;
DROP INDEX projects_held;
ALTER TABLE projects DROP COLUMN max_running, DROP COLUMN paused;
DROP TABLE queue;
