-- What the janitor's sweep goes by: work that stands still, and rows that nobody needs any more.

-- How often the event that moves it on was sent again since it last moved, and when.
alter table builds add column resent integer not null default 0, add column resent_at timestamptz;
alter table tasks add column resent integer not null default 0, add column resent_at timestamptz;

-- Events that can't be made again from other rows, because the code or the inputs travel inside them: kept until
-- their build is built or their task has ended.
create table kept_events (
    -- Of the build or the task.
    id uuid primary key,
    -- Protobuf.
    event bytea not null,
    created_at timestamptz not null default now()
);

create index kept_events_created on kept_events (created_at);

-- Read of a day ago or more is noted, so that what no image has any more can go.
alter table layer_indexes add column used_at timestamptz not null default now();
create index layer_indexes_used on layer_indexes (used_at);

create index image_usage_day on image_usage (day);

-- When a manifest in staging was first seen that no build's record knows.
create table staging_seen (
    repository text not null,
    digest text not null,
    first_seen_at timestamptz not null default now(),
    primary key (repository, digest)
);
