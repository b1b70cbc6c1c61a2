-- migrate:up
-- A project has a style that its jobs are drawn with, a rating and a cover; a draft is one that is still planned.
ALTER TABLE projects
    DROP CONSTRAINT projects_state_check,
    ADD CONSTRAINT projects_state_check CHECK (state IN ('draft', 'active', 'archived')),
    ADD COLUMN rating text NOT NULL DEFAULT 'general'
        CHECK (rating IN ('general', 'sensitive', 'questionable', 'explicit')),
    ADD COLUMN style jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN cover uuid;
COMMENT ON COLUMN projects.cover IS 'A file of the library.';
CREATE INDEX projects_cover ON projects (cover) WHERE cover IS NOT NULL;
CREATE INDEX jobs_of_project_by_state ON jobs (project_id, state);

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM projects
            WHERE state = 'draft' OR rating <> 'general' OR style <> '{}' OR cover IS NOT NULL)
    ) THEN
        RAISE EXCEPTION 'refused: styles, ratings and covers of projects, and which are drafts would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
DROP INDEX jobs_of_project_by_state;
DROP INDEX projects_cover;
UPDATE projects SET state = 'active' WHERE state = 'draft';
ALTER TABLE projects
    DROP COLUMN cover,
    DROP COLUMN style,
    DROP COLUMN rating,
    DROP CONSTRAINT projects_state_check,
    ADD CONSTRAINT projects_state_check CHECK (state IN ('active', 'archived'));
