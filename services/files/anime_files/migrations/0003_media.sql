-- migrate:up

-- Sounds have a folder of their own; what moves or sounds has a length, and what moves has frames.
ALTER TABLE files DROP CONSTRAINT files_type_check;
ALTER TABLE files ADD CONSTRAINT files_type_check CHECK (type IN ('image', 'video', 'audio', 'grid', 'upload'));
ALTER TABLE files ADD COLUMN duration double precision, ADD COLUMN frames integer;

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM files WHERE type = 'audio' OR duration IS NOT NULL OR frames IS NOT NULL)
    ) THEN
        RAISE EXCEPTION 'refused: lengths of clips, and which files are sounds would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

-- Without the type, sounds count among what is played; their files stay where they are.
UPDATE files SET type = 'video' WHERE type = 'audio';
ALTER TABLE files DROP COLUMN duration, DROP COLUMN frames;
ALTER TABLE files DROP CONSTRAINT files_type_check;
ALTER TABLE files ADD CONSTRAINT files_type_check CHECK (type IN ('image', 'video', 'grid', 'upload'));
