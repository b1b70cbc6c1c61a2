-- migrate:up

-- What was asked and what was answered: the material that learning a style starts from.
CREATE TABLE optimizations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id uuid,
    job_version integer,
    repeat integer,
    family text NOT NULL,
    prompt text NOT NULL,
    negative_prompt text NOT NULL,
    provider text NOT NULL,
    optimized_prompt text,
    optimized_negative_prompt text,
    changes jsonb NOT NULL DEFAULT '[]',
    refused text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((refused IS NULL) = (optimized_prompt IS NOT NULL)),
    CHECK ((refused IS NULL) = (optimized_negative_prompt IS NOT NULL))
);
CREATE INDEX optimizations_of_job ON optimizations (job_id) WHERE job_id IS NOT NULL;

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
        EXISTS (SELECT FROM optimizations) OR EXISTS (SELECT FROM outbox)
    ) THEN
        RAISE EXCEPTION 'refused: what Echo was asked and unsent messages would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

DROP TABLE outbox;
DROP TABLE inbox;
DROP TABLE optimizations;
