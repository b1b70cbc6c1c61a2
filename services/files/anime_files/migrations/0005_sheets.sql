-- migrate:up

-- Contact sheets that were asked for: one row for each end of a batch. The newest of a batch is made, or was.
CREATE TABLE sheets (
    batch_id uuid NOT NULL,
    version integer NOT NULL,
    epoch integer NOT NULL,
    asked jsonb NOT NULL,
    state text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'made', 'failed', 'superseded')),
    file_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    PRIMARY KEY (batch_id, version),
    CHECK ((state = 'made') <= (file_id IS NOT NULL))
);
CREATE INDEX sheets_to_make ON sheets (created_at) WHERE state = 'asked';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM sheets)
    ) THEN
        RAISE EXCEPTION 'refused: which contact sheets were made would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

DROP TABLE sheets;
