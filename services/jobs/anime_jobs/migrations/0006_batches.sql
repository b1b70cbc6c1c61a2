-- migrate:up
-- Many jobs that were accepted together. How far a batch is follows from its jobs; that all have ended is noted once.
CREATE TABLE batches (
    id uuid PRIMARY KEY,
    code text NOT NULL UNIQUE,
    name text NOT NULL DEFAULT '',
    client text NOT NULL,
    project_id uuid NOT NULL REFERENCES projects,
    asked jsonb NOT NULL,
    asked_hash text NOT NULL,
    axes jsonb NOT NULL DEFAULT '[]',
    total integer NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    version integer NOT NULL DEFAULT 1,
    sheet uuid,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ended_at timestamptz
);
COMMENT ON COLUMN batches.asked IS 'The request as it was sent: everything needed to make the batch again.';
CREATE INDEX batches_newest ON batches (created_at DESC, id DESC);
CREATE INDEX batches_of_project ON batches (project_id, created_at DESC, id DESC);
CREATE INDEX batches_paused ON batches (id) WHERE paused;
CREATE INDEX batches_sheet ON batches (sheet) WHERE sheet IS NOT NULL;

ALTER TABLE jobs
    ADD COLUMN batch_id uuid REFERENCES batches,
    ADD COLUMN batch_index integer,
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT jobs_batch_check CHECK ((batch_id IS NULL) = (batch_index IS NULL));
CREATE UNIQUE INDEX jobs_of_batch ON jobs (batch_id, batch_index) WHERE batch_id IS NOT NULL;
CREATE INDEX jobs_of_batch_by_state ON jobs (batch_id, state) WHERE batch_id IS NOT NULL;

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM batches)
    ) THEN
        RAISE EXCEPTION 'refused: batches, and which jobs are theirs would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
DROP INDEX jobs_of_batch_by_state;
DROP INDEX jobs_of_batch;
ALTER TABLE jobs DROP CONSTRAINT jobs_batch_check, DROP COLUMN labels, DROP COLUMN batch_index, DROP COLUMN batch_id;
DROP TABLE batches;
