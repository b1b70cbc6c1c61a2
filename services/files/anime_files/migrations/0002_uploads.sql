-- migrate:up

-- What whoever uploaded a file calls it; files that a job made have no name.
ALTER TABLE files ADD COLUMN name text;

-- The uploads that somebody began to register and nobody finished: few, and looked for often.
CREATE INDEX files_unfinished_uploads ON files (updated_at) WHERE type = 'upload' AND state = 'reserved';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (EXISTS (SELECT FROM files WHERE name IS NOT NULL)) THEN
        RAISE EXCEPTION 'refused: names of uploads would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

DROP INDEX files_unfinished_uploads;
ALTER TABLE files DROP COLUMN name;
