-- Runs of the mirror, and what became of each image of a run.

create table mirror_runs (
    id text primary key,
    -- schedule, manual, publish
    reason text not null,
    -- The most used images were chosen, rather than digests that somebody named: such a run counts for the lag.
    by_usage boolean not null,
    dry_run boolean not null,
    verify_percent integer not null check (verify_percent between 0 and 100),
    state text not null default 'running' check (state in ('running', 'done')),
    -- Images without an outcome. Whoever takes the last one down to 0 ends the run.
    open_images integer not null,
    requested_at timestamptz not null default now(),
    -- When the messages of its open images were sent once more, since none waited.
    resent_at timestamptz,
    ended_at timestamptz
);

create index mirror_runs_requested on mirror_runs (requested_at desc);

create table mirror_images (
    run_id text not null references mirror_runs,
    -- Empty: no image that is known has this digest.
    repository text not null,
    digest text not null,
    tags text[] not null,
    -- Tasks of the window; 0 for base images and for digests that were named.
    tasks bigint not null default 0,
    -- As its build had it; 0: not known.
    size_bytes bigint not null default 0,
    -- In a dry run: what would become of it.
    outcome text check (outcome in ('mirrored', 'unchanged', 'not_found', 'failed')),
    error_code text,
    error_message text,
    bytes_sent bigint not null default 0,
    -- That did not have to move: mounted, or there already.
    bytes_saved bigint not null default 0,
    -- Its blobs were read back from the fallback and hashed.
    verified boolean not null default false,
    duration_ms bigint not null default 0,
    ended_at timestamptz,
    primary key (run_id, repository, digest)
);

create index mirror_images_digest on mirror_images (digest, repository) where outcome in ('mirrored', 'unchanged');
