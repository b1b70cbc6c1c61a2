-- migrate:up

CREATE TABLE meta (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    epoch integer NOT NULL DEFAULT 1
);
COMMENT ON COLUMN meta.epoch IS 'Raised by a restore, so that ids of a lost future are not mistaken for ours.';
INSERT INTO meta DEFAULT VALUES;

CREATE TABLE projects (
    id uuid PRIMARY KEY,
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$'),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'archived')),
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO projects (id, slug, name, description)
VALUES ('00000000-0000-7000-8000-000000000001', 'default', 'Default', 'Jobs that name no project.');

CREATE TABLE models (
    key text PRIMARY KEY,
    info jsonb NOT NULL,
    is_default boolean NOT NULL DEFAULT false,
    first_seen timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workers (
    worker text PRIMARY KEY,
    incarnation uuid NOT NULL,
    status text NOT NULL DEFAULT 'live' CHECK (status IN ('live', 'lost', 'gone')),
    heartbeat jsonb NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE lost_incarnations (
    incarnation uuid PRIMARY KEY,
    worker text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    code text NOT NULL UNIQUE,
    version integer NOT NULL,
    epoch integer NOT NULL,
    state text NOT NULL CHECK (state IN
        ('preparing', 'queued', 'dispatched', 'running', 'filing', 'completed', 'failed', 'cancelled')),
    client text NOT NULL,
    project_id uuid NOT NULL REFERENCES projects,
    priority text NOT NULL CHECK (priority IN ('interactive', 'normal', 'batch')),
    request jsonb NOT NULL,
    request_hash text NOT NULL,
    settings jsonb,
    prompt text NOT NULL,
    negative_prompt text,
    prompt_note text,
    seed bigint NOT NULL,
    traceparent text,
    not_before timestamptz,
    next_try_at timestamptz,
    paused boolean NOT NULL DEFAULT false,
    attempt_id uuid,
    attempt integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    worker text,
    incarnation uuid,
    offer_id uuid,
    repeat integer NOT NULL DEFAULT 0,
    deadline timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    run_alone boolean NOT NULL DEFAULT false,
    parent_id uuid,
    staged jsonb NOT NULL DEFAULT '[]',
    filing_date date,
    end_as text NOT NULL DEFAULT 'completed' CHECK (end_as IN ('completed', 'cancelled')),
    outputs jsonb NOT NULL DEFAULT '[]',
    timings jsonb NOT NULL DEFAULT '{}',
    warnings jsonb NOT NULL DEFAULT '[]',
    error jsonb,
    message text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    queued_at timestamptz,
    dispatched_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    CHECK ((state IN ('dispatched', 'running', 'filing')) <= (attempt_id IS NOT NULL AND worker IS NOT NULL))
);
CREATE UNIQUE INDEX jobs_attempt ON jobs (attempt_id) WHERE attempt_id IS NOT NULL;
CREATE INDEX jobs_queued ON jobs (priority, project_id, created_at, id) WHERE state = 'queued';
CREATE INDEX jobs_state ON jobs (state);
CREATE INDEX jobs_newest ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_of_project ON jobs (project_id, created_at DESC, id DESC);
CREATE INDEX jobs_served ON jobs (project_id, dispatched_at DESC) WHERE dispatched_at IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE attempts (
    id uuid PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number integer NOT NULL,
    offer_id uuid NOT NULL,
    worker text NOT NULL,
    incarnation uuid NOT NULL,
    model text,
    work double precision,
    dispatched_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    outcome text,
    error text,
    UNIQUE (job_id, number)
);
COMMENT ON COLUMN attempts.work IS 'Pixels times steps times pictures: what a duration is measured against.';
CREATE INDEX attempts_measured ON attempts (model, ended_at DESC) WHERE outcome = 'finished';

CREATE TABLE refusals (
    job_id uuid PRIMARY KEY,
    command_id text NOT NULL,
    client text NOT NULL,
    status integer NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    field text,
    at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE inbox (
    ce_id text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_age ON inbox (received_at);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate text NOT NULL,
    subject text NOT NULL,
    headers text NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE VIEW anime_api.production_jobs AS
SELECT
    j.code::varchar(8) AS job_id,
    j.attempt_id AS comfyui_id,
    j.state AS status,
    j.prompt,
    j.project_id,
    p.slug AS project,
    j.outputs -> 0 ->> 'key' AS output_path,
    j.created_at,
    j.started_at,
    j.ended_at AS completed_at,
    extract(epoch FROM j.ended_at - j.created_at)::float AS total_time_seconds,
    extract(epoch FROM j.ended_at - j.started_at)::float AS generation_time_seconds,
    j.error ->> 'message' AS error_message
FROM jobs j
JOIN projects p ON p.id = j.project_id;
COMMENT ON VIEW anime_api.production_jobs IS 'Read-only, for readers of the former table of this name.';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM jobs) OR EXISTS (SELECT FROM projects WHERE slug <> 'default')
        OR EXISTS (SELECT FROM refusals) OR EXISTS (SELECT FROM outbox)
    ) THEN
        RAISE EXCEPTION 'refused: jobs, projects and unsent messages would be lost (allow_data_loss says that they may)';
    END IF;
END $$;

DROP VIEW anime_api.production_jobs;
DROP TABLE outbox, inbox, refusals, attempts, jobs, lost_incarnations, workers, models, projects, meta;
