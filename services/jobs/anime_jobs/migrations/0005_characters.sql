-- migrate:up
-- Who recurs in pictures. Content lies in versions, which never change; a character points to its current one.
CREATE TABLE characters (
    id uuid PRIMARY KEY,
    slug text NOT NULL CHECK (slug ~ '^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$'),
    project_id uuid REFERENCES projects ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'archived')),
    current integer NOT NULL DEFAULT 1,
    latest integer NOT NULL DEFAULT 1,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (current BETWEEN 1 AND latest)
);
CREATE UNIQUE INDEX characters_of_projects ON characters (project_id, slug) WHERE project_id IS NOT NULL;
CREATE UNIQUE INDEX characters_of_all ON characters (slug) WHERE project_id IS NULL;

CREATE TABLE character_versions (
    character_id uuid NOT NULL REFERENCES characters ON DELETE CASCADE,
    version integer NOT NULL,
    content jsonb NOT NULL,
    note text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (character_id, version)
);
ALTER TABLE characters ADD CONSTRAINT characters_current_is_there
    FOREIGN KEY (id, current) REFERENCES character_versions (character_id, version) DEFERRABLE INITIALLY DEFERRED;

-- Who appears in which job. No reference: jobs keep what they were drawn with, also when a character is gone.
CREATE TABLE job_characters (
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    character_id uuid NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (job_id, character_id)
);
CREATE INDEX job_characters_by_character ON job_characters (character_id);

ALTER TABLE jobs
    ADD COLUMN composition jsonb,
    ADD COLUMN production jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN jobs.production IS 'Style and characters as of when the job was accepted: what its prompt is composed of.';

-- migrate:down
DO $$ BEGIN
    IF current_setting('anime.allow_data_loss', true) IS DISTINCT FROM 'yes' AND (
        EXISTS (SELECT FROM characters) OR EXISTS (SELECT FROM job_characters)
        OR EXISTS (SELECT FROM jobs WHERE composition IS NOT NULL)
    ) THEN
        RAISE EXCEPTION 'refused: characters, and what prompts were composed of would be lost (allow_data_loss says that they may)';
    END IF;
END $$;
ALTER TABLE jobs DROP COLUMN production, DROP COLUMN composition;
DROP TABLE job_characters;
ALTER TABLE characters DROP CONSTRAINT characters_current_is_there;
DROP TABLE character_versions;
DROP TABLE characters;
