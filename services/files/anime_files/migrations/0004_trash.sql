-- migrate:up

-- What lies in the trash keeps its key and its bytes, is found nowhere else, and is deleted after some days.
ALTER TABLE files DROP CONSTRAINT files_state_check;
ALTER TABLE files
    ADD CONSTRAINT files_state_check CHECK (state IN ('reserved', 'filed', 'withdrawn', 'trashed', 'deleted')),
    ADD COLUMN trashed_at timestamptz,
    ADD CONSTRAINT files_trashed_at_check CHECK (state <> 'trashed' OR trashed_at IS NOT NULL);
CREATE INDEX files_in_trash ON files (trashed_at) WHERE state = 'trashed';
CREATE INDEX files_by_project_id ON files (project_id) INCLUDE (size) WHERE state IN ('filed', 'trashed');

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM files WHERE state = 'trashed')
    ) THEN
        RAISE EXCEPTION 'refused: which files lie in the trash would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

-- Without a trash, what lies there is in the library again.
DROP INDEX files_by_project_id;
DROP INDEX files_in_trash;
UPDATE files SET state = 'filed' WHERE state = 'trashed';
ALTER TABLE files
    DROP CONSTRAINT files_trashed_at_check,
    DROP COLUMN trashed_at,
    DROP CONSTRAINT files_state_check;
ALTER TABLE files
    ADD CONSTRAINT files_state_check CHECK (state IN ('reserved', 'filed', 'withdrawn', 'deleted'));
