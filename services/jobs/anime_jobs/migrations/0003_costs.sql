-- migrate:up
-- What attempts spent their time with, for profiles of jobs, models and workflows.
ALTER TABLE attempts ADD COLUMN engine text;
ALTER TABLE attempts ADD COLUMN workflow text;
ALTER TABLE attempts ADD COLUMN timings jsonb NOT NULL DEFAULT '{}';
ALTER TABLE attempts ADD COLUMN costs jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN attempts.timings IS 'Seconds a phase.';
COMMENT ON COLUMN attempts.costs IS 'What each node of the workflow cost, the dearest first; empty for engines without such.';
CREATE INDEX attempts_by_workflow ON attempts (workflow, ended_at DESC) WHERE workflow IS NOT NULL;

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM attempts WHERE engine IS NOT NULL OR workflow IS NOT NULL OR timings <> '{}' OR costs <> '[]')
    ) THEN
        RAISE EXCEPTION 'refused: what attempts spent their time with would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
DROP INDEX attempts_by_workflow;
ALTER TABLE attempts DROP COLUMN costs, DROP COLUMN timings, DROP COLUMN workflow, DROP COLUMN engine;
