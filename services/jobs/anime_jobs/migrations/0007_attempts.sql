-- migrate:up
-- Why an attempt ended, how far it came, and how long the job waits before the next one.
ALTER TABLE attempts ADD COLUMN code text;
ALTER TABLE attempts ADD COLUMN reached jsonb;
ALTER TABLE attempts ADD COLUMN retry_delay double precision;
COMMENT ON COLUMN attempts.code IS 'Of the table of errors; a finished attempt has one when its pictures could not be filed.';
COMMENT ON COLUMN attempts.retry_delay IS 'Seconds until the next attempt at the earliest; null when there was none to be.';
CREATE INDEX attempts_by_code ON attempts (code, ended_at DESC) WHERE code IS NOT NULL;

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM attempts WHERE code IS NOT NULL OR reached IS NOT NULL OR retry_delay IS NOT NULL)
    ) THEN
        RAISE EXCEPTION 'refused: why attempts ended would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
DROP INDEX attempts_by_code;
ALTER TABLE attempts DROP COLUMN retry_delay, DROP COLUMN reached, DROP COLUMN code;
