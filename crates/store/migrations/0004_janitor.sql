-- What the janitor has seen in the registry, its runs, and what each of them deletes.

-- Every manifest that the last inventory found. A manifest never changes, so what it holds is read once; when it
-- was first seen is its age where the registry tells no other.
create table registry_images (
    repository text not null,
    digest text not null,
    media_type text not null,
    size bigint not null,
    -- {"config": .., "layers": [..]} or {"children": [..]}
    holds jsonb not null,
    subject text,
    pushed_at timestamptz,
    first_seen_at timestamptz not null default now(),
    -- As the last plan had them.
    tags text[] not null default '{}',
    action text not null default 'keep',
    rule text not null default '',
    reason text not null default '',
    planned_by text,
    planned_at timestamptz,
    primary key (repository, digest)
);

create index registry_images_digest on registry_images (digest);

create table cleanup_runs (
    id text primary key,
    kind text not null check (kind in ('cleanup', 'undo')),
    state text not null default 'planning' check (state in ('planning', 'applying', 'done', 'failed')),
    dry_run boolean not null,
    confirmed boolean not null,
    -- schedule, manual
    reason text not null,
    -- What an undo puts back: a run or an image.
    target text not null default '',
    -- Raised by whoever takes the run: an older one writes nothing more.
    fence integer not null default 0,
    images_seen bigint not null default 0,
    storage_bytes bigint not null default 0,
    planned_images bigint not null default 0,
    planned_bytes bigint not null default 0,
    freed_bytes bigint not null default 0,
    days_until_limit integer,
    -- Why it deleted nothing although it could have; empty: it did not stop.
    stopped text not null default '',
    -- What went wrong last, while it is tried again; or why it failed.
    problem text not null default '',
    report_key text not null default '',
    requested_at timestamptz not null default now(),
    planned_at timestamptz,
    ended_at timestamptz
);

create index cleanup_runs_requested on cleanup_runs (requested_at desc);

-- The plan of a run, in the order in which it is applied. The rows are the state: whoever goes on with a run takes
-- those that are still planned.
create table cleanup_items (
    run_id text not null references cleanup_runs on delete cascade,
    position integer not null,
    -- Items of one depth may go at once; what depends on another goes after it.
    depth integer not null,
    repository text not null,
    digest text not null,
    action text not null check (action in ('delete', 'remove_tag', 'move_tag')),
    -- What leads to it, and must be exactly this; of a tag that is removed or moved: that tag.
    tags text[] not null,
    -- Where a moved tag goes.
    moved_to text,
    -- Manifests of the repository that must be gone before: indexes that hold it, the image it refers to.
    owners text[] not null default '{}',
    policy text not null,
    rule text not null,
    reason text not null,
    state text not null default 'planned' check (state in
        ('planned', 'done', 'absent', 'skipped', 'refused', 'undone', 'undo_failed')),
    -- Why it was skipped or refused; how it was put back, or why it could not be.
    outcome text not null default '',
    -- The manifest as it was, for 30 days.
    media_type text,
    manifest bytea,
    -- The run that put it back, or tried to.
    undone_by text,
    updated_at timestamptz not null default now(),
    primary key (run_id, position)
);

create index cleanup_items_image on cleanup_items (repository, digest);
create index cleanup_items_undone on cleanup_items (undone_by) where undone_by is not null;
create index cleanup_items_kept on cleanup_items (updated_at) where manifest is not null;

-- Bytes in the registry, a row a day: the trend comes from these.
create table storage_samples (
    day date primary key,
    bytes bigint not null
);
