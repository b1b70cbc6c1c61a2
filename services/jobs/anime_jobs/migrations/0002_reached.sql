-- migrate:up

ALTER TABLE jobs ADD COLUMN reached jsonb;
COMMENT ON COLUMN jobs.reached IS 'How far the last attempt came, of a job that failed or was cancelled in work.';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (EXISTS (SELECT FROM jobs WHERE reached IS NOT NULL)) THEN
        RAISE EXCEPTION 'refused: how far ended jobs came would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

ALTER TABLE jobs DROP COLUMN reached;
