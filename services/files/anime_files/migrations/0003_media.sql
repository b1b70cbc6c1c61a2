-- migrate:up

-- Sounds have a folder of their own; what moves or sounds has a length, and what moves has frames.
ALTER TABLE files DROP CONSTRAINT files_type_check;
ALTER TABLE files ADD CONSTRAINT files_type_check CHECK (type IN ('image', 'video', 'audio', 'grid', 'upload'));
ALTER TABLE files ADD COLUMN duration double precision, ADD COLUMN frames integer;

-- migrate:down

-- Without the type, sounds count among what is played; their files stay where they are.
UPDATE files SET type = 'video' WHERE type = 'audio';
ALTER TABLE files DROP COLUMN duration, DROP COLUMN frames;
ALTER TABLE files DROP CONSTRAINT files_type_check;
ALTER TABLE files ADD CONSTRAINT files_type_check CHECK (type IN ('image', 'video', 'grid', 'upload'));
