-- migrate:up

-- A restored ledger counts its versions again under a new epoch: an end of a batch is named by both.
ALTER TABLE sheets DROP CONSTRAINT sheets_pkey;
ALTER TABLE sheets ADD PRIMARY KEY (batch_id, epoch, version);
ALTER TABLE sheets ADD COLUMN reason text;

-- One row for each time that a sheet was written: every maker has a key of its own, and what is not needed is removed.
CREATE TABLE sheet_tries (
    file_id uuid PRIMARY KEY,
    batch_id uuid NOT NULL,
    epoch integer NOT NULL,
    version integer NOT NULL
);
CREATE INDEX sheet_tries_batch ON sheet_tries (batch_id);

-- Sheets that somebody died over are drawn anew, under keys of their own.
UPDATE files SET state = 'withdrawn', updated_at = now() WHERE type = 'grid' AND state = 'reserved';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM sheets WHERE reason IS NOT NULL) OR EXISTS (SELECT FROM sheet_tries)
        OR EXISTS (SELECT FROM sheets GROUP BY batch_id, version HAVING count(*) > 1)
    ) THEN
        RAISE EXCEPTION 'refused: ends of batches under several epochs, and why sheets failed would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

UPDATE files SET state = 'withdrawn', updated_at = now()
    WHERE state = 'reserved' AND id IN (SELECT file_id FROM sheet_tries);
DROP TABLE sheet_tries;
DELETE FROM sheets older USING sheets newer
    WHERE older.batch_id = newer.batch_id AND older.version = newer.version AND older.epoch < newer.epoch;
ALTER TABLE sheets DROP COLUMN reason;
ALTER TABLE sheets DROP CONSTRAINT sheets_pkey;
ALTER TABLE sheets ADD PRIMARY KEY (batch_id, version);
