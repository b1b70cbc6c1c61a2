-- migrate:up

-- One row for each (job, attempt) that was ever to be filed. The first verdict is final: repeats are answered from it.
CREATE TABLE filings (
    job_id uuid NOT NULL,
    attempt_id uuid NOT NULL,
    epoch integer NOT NULL,
    outcome text CHECK (outcome IN ('filed', 'failed')),
    code text,
    message text,
    retryable boolean,
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    PRIMARY KEY (job_id, attempt_id),
    CHECK ((outcome = 'failed') = (code IS NOT NULL) OR outcome IS NULL)
);
CREATE INDEX filings_epoch ON filings (epoch);

-- One row for each key that was ever given. Keys are never given twice, also not those of withdrawn or deleted files:
-- a process that was frozen in the middle of a copy can wake up and write, and must not meet another file there.
CREATE TABLE files (
    id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('reserved', 'filed', 'withdrawn', 'deleted')),
    key text NOT NULL UNIQUE,
    thumbnail_key text,
    job_id uuid,
    attempt_id uuid,
    index integer NOT NULL,
    code text,
    project_id uuid NOT NULL,
    project text NOT NULL,
    date date NOT NULL,
    type text NOT NULL CHECK (type IN ('image', 'video', 'grid', 'upload')),
    media_type text NOT NULL,
    size bigint NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    sha256 text NOT NULL,
    seed bigint,
    settings jsonb,
    rating smallint NOT NULL DEFAULT 0 CHECK (rating BETWEEN 0 AND 5),
    favourite boolean NOT NULL DEFAULT false,
    tags text[] NOT NULL DEFAULT '{}',
    search tsvector NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    UNIQUE (job_id, attempt_id, index)
);
CREATE INDEX files_newest ON files (created_at DESC, id DESC) WHERE state = 'filed';
CREATE INDEX files_of_project ON files (project, created_at DESC, id DESC) WHERE state = 'filed';
CREATE INDEX files_search ON files USING gin (search) WHERE state = 'filed';
CREATE INDEX files_tags ON files USING gin (tags) WHERE state = 'filed';
CREATE INDEX files_to_remove ON files (updated_at) WHERE state IN ('withdrawn', 'deleted') AND removed_at IS NULL;

CREATE TABLE inbox (
    ce_id text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_received ON inbox (received_at);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate text NOT NULL,
    subject text NOT NULL,
    headers text NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM files) OR EXISTS (SELECT FROM filings) OR EXISTS (SELECT FROM outbox)
    ) THEN
        RAISE EXCEPTION 'refused: files of the library and unsent messages would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

DROP TABLE outbox;
DROP TABLE inbox;
DROP TABLE files;
DROP TABLE filings;
